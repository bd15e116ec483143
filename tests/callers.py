"""Who asks the API in tests that are not about rights."""

from __future__ import annotations

from seedbed.runtime.api.access import Action, Caller


class AllowAll:
    """Access for which everybody is the same person, who may do everything."""

    async def caller(self, token: str) -> Caller:
        """The local user."""
        return Caller("local")

    async def require(self, caller: Caller, action: Action) -> None:
        """Passes."""
