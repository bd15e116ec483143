// The program that holds a pod's namespaces.
module seedbed.dev/hack/tools/pause

go 1.26.0
