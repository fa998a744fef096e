//! Which of this host's threads come first where processors are scarce.

/// Lets the calling thread precede others of the same user by `steps` of the scheduler's nice scale (1 to 19), if
/// this user may do that; else nothing changes. On Linux a nice value belongs to a thread.
pub fn precede(steps: u8) {
    let nice = -libc::c_int::from(steps.clamp(1, 19));
    // SAFETY: changes only how the calling thread is scheduled; on refusal nothing changes.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}
