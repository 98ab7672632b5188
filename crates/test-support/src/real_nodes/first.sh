# The first process of a node: containerd, and the kubelet as soon as kubeadm has configured it. Both start again when they end, unless
# there is a file that keeps them stopped.
serve() {
    while :; do
        if [ ! -e "/run/$1.stopped" ] && "may_start_$1"; then
            "start_$1" >> "/var/log/$1.log" 2>&1 &
            echo $! > "/run/$1.pid"
            wait $!
            echo "$(date) $1 ended with $?" >> "/var/log/$1.log"
        fi
        sleep 0.3
    done
}
may_start_containerd() { :; }
start_containerd() { exec containerd --config /opt/kit/scripts/containerd.toml; }
may_start_kubelet() { [ -e /var/lib/kubelet/config.yaml ]; }
start_kubelet() {
    KUBELET_KUBEADM_ARGS=
    [ ! -e /var/lib/kubelet/kubeadm-flags.env ] || . /var/lib/kubelet/kubeadm-flags.env
    # An upgrade installs a newer one here.
    program=/usr/local/bin/kubelet
    [ -x $program ] || program=kubelet
    # shellcheck disable=SC2086
    exec $program --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
        --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
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
serve containerd &
until ctr version > /dev/null 2>&1; do sleep 0.1; done
if [ ! -e /var/lib/containerd/imported ]; then
    for image in /opt/kit/images/*.tar; do
        ctr -n k8s.io images import --local "$image" || echo "$image" >> /run/problem
    done > /var/log/import.log 2>&1
    touch /var/lib/containerd/imported
fi
touch /run/ready
serve kubelet &
# It also takes in processes whose parents ended.
while :; do wait; sleep 1; done
