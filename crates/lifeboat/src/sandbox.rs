//! What a command on a node gives up before it does anything else: the system calls that it never needs and that turn a mistake in
//! it into the whole node.
//!
//! With CAP_DAC_READ_SEARCH `open_by_handle_at` opens files of a filesystem by their numbers, whatever is mounted where: a
//! writable directory of the node would be the node's root filesystem. Other programs are never started.

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;
use std::path::Path;

/// Never needed here.
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
/// On x86-64 the same calls have a second number, for programs with short pointers.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Gives them up, in this thread and in all that come from it: before any is started. Says why that can't be done here.
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

/// In a pod, where the directory of the backups is a mount of its own: nothing else is written to, also not what the node's
/// directories hold. Nothing where the kernel has no Landlock.
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
        // For output that nobody wants.
        let ruleset = match PathFd::new("/dev/null") {
            Ok(null) => ruleset.add_rule(PathBeneath::new(null, AccessFs::WriteFile))?,
            Err(_) => ruleset,
        };
        ruleset.restrict_self()?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    restrict().map_err(|error| error.to_string())
}
