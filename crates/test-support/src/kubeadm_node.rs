//! The files of a control-plane node, laid out as kubeadm does (kubernetes/kubernetes:
//! `cmd/kubeadm/app/phases/etcd/local.go`, `cmd/kubeadm/app/constants`).

use crate::pki::Pki;
use std::path::Path;

/// Writes the manifest of etcd's static pod and the certificates below `root`.
pub fn lay_out(root: &Path, endpoint: &str, pki: &Pki) {
    let manifests = root.join("etc/kubernetes/manifests");
    let certs = root.join("etc/kubernetes/pki/etcd");
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::create_dir_all(root.join("var/lib/etcd")).unwrap();
    for (from, to) in [
        (&pki.ca, "etcd/ca.crt"),
        (&pki.server_cert, "etcd/server.crt"),
        (&pki.server_key, "etcd/server.key"),
        (&pki.client_cert, "apiserver-etcd-client.crt"),
        (&pki.client_key, "apiserver-etcd-client.key"),
    ] {
        std::fs::copy(from, root.join("etc/kubernetes/pki").join(to)).unwrap();
    }
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: {endpoint}
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls={endpoint}
    - --cert-file=/etc/kubernetes/pki/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --key-file=/etc/kubernetes/pki/etcd/server.key
    - --listen-client-urls={endpoint}
    - --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
    image: registry.k8s.io/etcd:3.6.4-0
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  hostNetwork: true
  priorityClassName: system-node-critical
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: /var/lib/etcd
      type: DirectoryOrCreate
    name: etcd-data
status: {{}}
"
    );
    std::fs::write(manifests.join("etcd.yaml"), manifest).unwrap();
}
