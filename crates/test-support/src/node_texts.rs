//! Files of nodes that are read as they are.

/// The API server of a cluster that encrypts Secrets, and has audit and admission configurations: some of them on another disk, in the
/// pod at another path.
pub(crate) const CONFIGURED_API_SERVER: &str = "apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --admission-control-config-file=/etc/admission/config.yaml
    - --audit-log-path=/var/log/audit.log
    - --audit-policy-file=/etc/audit/policy.yaml
    - --authorization-always-allow-paths=/healthz,/readyz
    - --encryption-provider-config=/etc/kubernetes/encryption.yaml
    - --etcd-prefix=/registry
    - --oidc-ca-file=/etc/ssl/certs/ca-certificates.crt
    - --tls-sni-cert-key=/srv/tls/a.crt,/srv/tls/a.key:example.com
    volumeMounts:
    - {name: k8s, mountPath: /etc/kubernetes}
    - {name: audit, mountPath: /etc/audit}
    - {name: admission, mountPath: /etc/admission}
    - {name: tls, mountPath: /srv/tls}
  volumes:
  - {name: k8s, hostPath: {path: /etc/kubernetes}}
  - {name: audit, hostPath: {path: /srv/audit}}
  - {name: admission, hostPath: {path: /srv/admission}}
  - {name: tls, hostPath: {path: /srv/tls}}
";

/// The API server as kubeadm starts it, in a cluster that encrypts Secrets.
pub(crate) const KUBEADM_API_SERVER: &str = "apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command:
    - kube-apiserver
    - --client-ca-file=/etc/kubernetes/pki/ca.crt
    - --encryption-provider-config=/etc/kubernetes/encryption.yaml
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt
    - --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key
    volumeMounts:
    - {name: k8s-certs, mountPath: /etc/kubernetes/pki}
  volumes:
  - {name: k8s-certs, hostPath: {path: /etc/kubernetes/pki}}
";

/// The API server of RKE2, with files of people.
pub(crate) const RKE2_API_SERVER: &str = "apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
  - name: kube-apiserver
    command: [kube-apiserver]
    args:
    - --admission-control-config-file=/etc/rancher/rke2/rke2-pss.yaml
    - --audit-policy-file=/srv/audit.yaml
    - --encryption-provider-config=/data/rke2/server/cred/encryption-config.json
    - --client-ca-file=/etc/ssl/certs/company.pem
";

/// Secrets are encrypted.
pub(crate) const ENCRYPTION: &str = r#"{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"c2VjcmV0IGtleQ=="}]}},{"identity":{}}]}]}"#;

/// etcd of RKE2.
pub(crate) const RKE2_ETCD: &str = "apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: kube-system}
spec:
  containers:
  - {name: etcd, command: [etcd], args: [--config-file=/data/rke2/server/db/etcd/config]}
";

/// The configuration of an admission plugin is in a file beside this one.
pub(crate) const ADMISSION: &str = "plugins:\n- {name: ImagePolicyWebhook, path: webhook.yaml}\n";

/// k3s-io/k3s: `install.sh`, `create_systemd_service_file`.
pub(crate) const K3S_UNIT: &str = "[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
ExecStart=/usr/local/bin/k3s \\
    server \\
";
