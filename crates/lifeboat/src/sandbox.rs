//! Restricts the system calls of a command on a node before it does anything else. It never needs these calls, and with them an
//! attacker could take over the node.
//!
//! With CAP_DAC_READ_SEARCH, `open_by_handle_at` opens any file of a mounted filesystem. From one writable directory of the node it
//! would reach the node's root filesystem. The command also never starts other programs.

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;
use std::path::Path;

/// System calls that the command never needs.
const REFUSED: &[c_long] = &[
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_mknodat,
];
/// On x86-64 each call has a second number, for programs with 32-bit pointers (x32).
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Blocks these calls in this thread and in all threads that it starts. Returns an error if the kernel cannot do that.
pub(crate) fn enter() -> Result<(), String> {
    let program = program().map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, _> = BTreeMap::new();
    for call in REFUSED {
        rules.insert(*call, Vec::new());
        #[cfg(target_arch = "x86_64")]
        rules.insert(*call | X32, Vec::new());
    }
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

/// In a pod, allows writes only below the directory of the backups, also for the mounted directories of the node. Does nothing
/// if the kernel has no Landlock.
pub(crate) fn write_only_below(dir: &Path) -> Result<(), String> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return Ok(());
    }
    let writes = AccessFs::from_write(ABI::V3);
    let restrict = || {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(writes)?
            .create()?
            .add_rule(PathBeneath::new(PathFd::new(dir)?, writes))?;
        // Writes to /dev/null are harmless.
        let ruleset = match PathFd::new("/dev/null") {
            Ok(null) => ruleset.add_rule(PathBeneath::new(null, AccessFs::WriteFile))?,
            Err(_) => ruleset,
        };
        ruleset.restrict_self()?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    restrict().map_err(|error| error.to_string())
}
