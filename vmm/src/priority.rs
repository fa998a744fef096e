//! Which of this host's threads come first where processors are scarce.

/// Lets the calling thread precede others of the same user by `steps` of the scheduler's nice scale (1 to 19), if
/// this user may do that; else nothing changes. On Linux a nice value belongs to a thread.
pub fn precede(steps: u8) {
    let nice = -libc::c_int::from(steps.clamp(1, 19));
    // SAFETY: changes only how the calling thread is scheduled; on refusal nothing changes.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Lets others precede the calling thread by `steps` of the nice scale (1 to 19), for as long as it runs: only with a right that
/// few have does it come back.
pub fn give_way(steps: u8) {
    let nice = libc::c_int::from(steps.clamp(1, 19));
    // SAFETY: changes only how the calling thread is scheduled.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}
