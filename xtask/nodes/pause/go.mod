// The program that keeps the namespaces of a pod.
module lifeboat.test/pause

go 1.26.0
