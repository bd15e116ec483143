"""The Bus: moves work, requests and events; holds no truth. asyncio queues embedded, NATS in a cluster."""
