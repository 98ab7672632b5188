//! What kubeadm is told.

use super::node::RealNode;

/// The name of the API server for all nodes.
pub(super) const ENDPOINT: &str = "api.nodes.test";
const TOKEN: &str = "abcdef.0123456789abcdef";
/// Encrypts the certificates that nodes get when they join.
pub(super) const CERTIFICATE_KEY: &str =
    "00000000000000000000000000000000000000000000000000000000000000aa";

/// The configuration of `kubeadm init`.
pub(super) fn init(node: &RealNode, kubernetes: &str, etcd_tag: &str) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{{token: {TOKEN}}}]
certificateKey: \"{CERTIFICATE_KEY}\"
localAPIEndpoint: {{advertiseAddress: {address}}}
{registration}---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {kubernetes}
controlPlaneEndpoint: {ENDPOINT}:6443
networking: {{podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}}
encryptionAlgorithm: ECDSA-P256
etcd: {{local: {{imageTag: {etcd_tag}}}}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
oomScoreAdj: 0
failSwapOn: false
fileCheckFrequency: 2s
evictionPressureTransitionPeriod: 15s
resolvConf: /etc/resolv.conf
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
        address = node.address(),
        registration = registration(node),
    )
}

/// The configuration of `kubeadm join --control-plane`.
pub(super) fn join(node: &RealNode) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery: {{bootstrapToken: {{apiServerEndpoint: \"{ENDPOINT}:6443\", token: {TOKEN}, unsafeSkipCAVerification: true}}}}
controlPlane: {{certificateKey: \"{CERTIFICATE_KEY}\", localAPIEndpoint: {{advertiseAddress: {address}}}}}
{registration}",
        address = node.address(),
        registration = registration(node),
    )
}

fn registration(node: &RealNode) -> String {
    format!(
        "nodeRegistration:
  name: {name}
  criSocket: unix:///run/containerd/containerd.sock
  imagePullPolicy: IfNotPresent
  taints: []
  kubeletExtraArgs: [{{name: node-ip, value: {address}}}]
  ignorePreflightErrors: [SystemVerification, Swap]
",
        name = node.name(),
        address = node.address(),
    )
}
