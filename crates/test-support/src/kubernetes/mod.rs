//! A real Kubernetes control plane on loopback, with nodes whose containers are processes of ours.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real ones. A node is a Node object
//! that is kept ready, a folder that stands for its root directory, laid out as kubeadm does, with a real
//! etcd member of the cluster's in it, and a kubelet of ours.

pub mod binaries;
pub mod cluster;
pub mod conflict;
mod container;
mod container_status;
pub mod faults;
pub mod image;
mod kubelet;
mod launcher;
mod link;
mod node;
mod node_context;
pub mod openshift;
mod part;
mod pki;
mod pod;
mod volumes;
