// A Temporal server for development in one process: every service, SQLite below.
//
//	temporal-peer FILE PORT
//
// The history's task poller is raised far above its default of 20 tasks a second a shard, which
// otherwise limits everything.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	schema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

const (
	host      = "127.0.0.1"
	namespace = "default"
	polls     = 100000
)

func freePort() int {
	listener, err := net.Listen("tcp", host+":0")
	check(err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func service(port int) config.Service {
	return config.Service{RPC: config.RPC{GRPCPort: port, MembershipPort: freePort(), BindOnLocalHost: true}}
}

func settings(store *config.SQL, port int) *config.Config {
	address := fmt.Sprintf("%s:%d", host, port)
	return &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: host},
		},
		Persistence: config.Persistence{
			DefaultStore:     sqlite.PluginName,
			VisibilityStore:  sqlite.PluginName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{sqlite.PluginName: {SQL: store}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        "active",
			CurrentClusterName:       "active",
			ClusterInformation: map[string]cluster.ClusterInformation{
				"active": {Enabled: true, InitialFailoverVersion: 1, RPCAddress: address},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services: map[string]config.Service{
			"frontend": service(port),
			"history":  service(freePort()),
			"matching": service(freePort()),
			"worker":   service(freePort()),
		},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: "disabled"},
			Visibility: config.VisibilityArchival{State: "disabled"},
		},
		PublicClient: config.PublicClient{HostPort: address},
		NamespaceDefaults: config.NamespaceDefaults{
			Archival: config.ArchivalNamespaceDefaults{
				History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
				Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
			},
		},
	}
}

func main() {
	port, err := strconv.Atoi(os.Args[2])
	check(err)
	store := &config.SQL{
		PluginName:   sqlite.PluginName,
		DatabaseName: os.Args[1],
		ConnectAttributes: map[string]string{
			"mode": "rwc", "_journal_mode": "wal", "_synchronous": "2",
		},
	}
	check(schema.SetupSchema(store))
	space, err := schema.NewNamespaceConfig("active", namespace, false, nil)
	check(err)
	check(schema.CreateNamespaces(store, space))
	configuration := settings(store, port)
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Stdout: true, Level: "error"}))
	authorizer, err := authorization.GetAuthorizerFromConfig(&configuration.Global.Authorization)
	check(err)
	dynamic := dynamicconfig.StaticClient{
		dynamicconfig.MakeKey("history.transferProcessorMaxPollRPS"): polls,
		dynamicconfig.MakeKey("history.timerProcessorMaxPollRPS"):    polls,
		dynamicconfig.MakeKey("history.rps"):                         polls,
		dynamicconfig.MakeKey("frontend.rps"):                        polls,
		dynamicconfig.MakeKey("frontend.namespaceRPS"):               polls,
		dynamicconfig.MakeKey("matching.rps"):                        polls,
		dynamicconfig.MakeKey("history.persistenceMaxQPS"):           polls,
		dynamicconfig.MakeKey("matching.persistenceMaxQPS"):          polls,
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(configuration),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorizer),
		temporal.WithDynamicConfigClient(dynamic),
	)
	check(err)
	check(server.Start())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	<-ended
	check(server.Stop())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
