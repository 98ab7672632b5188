#!/bin/bash
# What kubeadm and people ask of systemd in a node: the state of the kubelet.
[ "${2%.service}" = kubelet ] || exit 0
running() { kill -0 "$(cat /run/kubelet.pid)" 2> /dev/null; }
case $1 in
stop)
    touch /run/kubelet.stopped
    if running; then kill "$(cat /run/kubelet.pid)"; fi
    while running; do sleep 0.1; done
    ;;
start) rm -f /run/kubelet.stopped ;;
restart)
    rm -f /run/kubelet.stopped
    if running; then kill "$(cat /run/kubelet.pid)"; fi
    ;;
is-active) running ;;
esac
