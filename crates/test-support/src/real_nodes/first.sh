# The first process of a node: containerd, and the kubelet as soon as kubeadm has configured it. Both start again when they end.
again() {
    while :; do
        "$@"
        sleep 1
    done
}
ulimit -n 65536 2> /dev/null
# With cgroup v2, no process may be in a cgroup that gives its controllers to others.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/first
    echo $$ > /sys/fs/cgroup/first/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
    done
fi
again containerd --config /opt/kit/scripts/containerd.toml >> /var/log/containerd.log 2>&1 &
until ctr version > /dev/null 2>&1; do sleep 0.1; done
if [ ! -e /var/lib/containerd/imported ]; then
    for image in /opt/kit/images/*.tar; do
        ctr -n k8s.io images import --local "$image" || echo "$image" >> /run/problem
    done > /var/log/import.log 2>&1
    touch /var/lib/containerd/imported
fi
touch /run/ready
while :; do
    if [ -e /var/lib/kubelet/config.yaml ] && [ ! -e /run/kubelet.stopped ]; then
        KUBELET_KUBEADM_ARGS=
        [ ! -e /var/lib/kubelet/kubeadm-flags.env ] || . /var/lib/kubelet/kubeadm-flags.env
        # shellcheck disable=SC2086
        kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
            --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS >> /var/log/kubelet.log 2>&1 &
        echo $! > /run/kubelet.pid
        wait $!
    fi
    sleep 0.3
done
