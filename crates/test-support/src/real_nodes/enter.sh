# Runs in the new namespaces of a node: makes its root directory, enters it, and becomes its first process.
# Arguments: the folder of the node, the kit, the name, the address, the address of the first node, the subnet of its pods.
set -e
dir=$1 kit=$2 name=$3 address=$4 first=$5 pods=$6
root=$dir/root
hostname "$name"
# The node's own disk. Its loop device goes when the last process of the node does.
mount -o loop "$dir/disk" "$root"
cd "$root"
mkdir -p proc sys dev run tmp usr root old opt/kit opt/cni/bin etc/cni/net.d etc/ca-certificates var/lib var/log var/tmp
chmod 1777 tmp var/tmp
for link in bin sbin lib lib32 lib64; do
    if [ -L "/$link" ] && [ ! -e "$link" ]; then cp -a "/$link" .; fi
done
# What is written to /usr stays in the node.
mkdir -p .usr/upper .usr/work
mount -t overlay -o "lowerdir=/usr,upperdir=$root/.usr/upper,workdir=$root/.usr/work" overlay usr
mount --bind "$kit" opt/kit
mount -o remount,ro,bind opt/kit
mount --bind "$kit/cni" opt/cni/bin
if [ ! -e etc/passwd ]; then
    for file in alternatives passwd group nsswitch.conf ssl ld.so.conf ld.so.conf.d ld.so.cache services protocols; do
        cp -a "/etc/$file" etc/ 2>/dev/null || true
    done
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > etc/machine-id
    echo "$name" > etc/hostname
    : > etc/resolv.conf
    printf '127.0.0.1 localhost\n%s %s\n%s api.nodes.test\n' "$address" "$name" "$first" > etc/hosts
fi
ln -sf /proc/mounts etc/mtab
cat > etc/cni/net.d/10-bridge.conflist <<NETWORK
{"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
 "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]],
 "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-ipam"}}]}
NETWORK
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
[ ! -e /dev/kmsg ] || cp -a /dev/kmsg dev/
[ -e dev/kmsg ] || ln -s null dev/kmsg
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mount -t proc proc proc
# The kubelet sets these for the whole kernel. Here it finds files that have the values already, and the machine keeps its own.
mkdir run/sysctl
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    file=run/sysctl/$(basename "${setting%=*}")
    echo "${setting#*=}" > "$file"
    mount --bind "$file" "proc/sys/${setting%=*}"
done
mount -t sysfs sysfs sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in "" | name=*) continue ;; esac
        mkdir "sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "sys/fs/cgroup/$controllers"
    done < /proc/self/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
pivot_root . old
cd /
umount -l /old
rmdir /old
mount --make-rshared /
exec env -i HOME=/root PATH=/opt/kit/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/bash /opt/kit/scripts/first.sh < /dev/null
