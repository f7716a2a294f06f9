//! The system's calls, safe to call.

use std::{
    ffi::{CStr, c_int, c_short, c_uint},
    io,
    mem::MaybeUninit,
    os::fd::RawFd,
};

/// The device and the number of a file.
pub(super) type Identity = (libc::dev_t, libc::ino_t);

pub(super) fn open(path: &CStr, flags: c_int, mode: c_int) -> io::Result<RawFd> {
    // SAFETY: the path ends in NUL.
    checked(unsafe { libc::open(path.as_ptr(), flags, mode as c_uint) })
}

pub(super) fn close(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: SQLite, or `Files`, has opened it and forgets it now.
    checked(unsafe { libc::close(descriptor) }).map(drop)
}

/// `None` for a directory or a device, on which nobody holds locks.
pub(super) fn identity(descriptor: RawFd) -> io::Result<Option<Identity>> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: there is room for what it writes.
    checked(unsafe { libc::fstat(descriptor, status.as_mut_ptr()) })?;
    // SAFETY: written.
    Ok(of_file(unsafe { status.assume_init() }))
}

/// `None` too where there is nothing, or a symbolic link.
pub(super) fn identity_at(path: &CStr) -> Option<Identity> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: the path ends in NUL, and there is room for what it writes.
    checked(unsafe { libc::lstat(path.as_ptr(), status.as_mut_ptr()) }).ok()?;
    // SAFETY: written.
    of_file(unsafe { status.assume_init() })
}

fn of_file(status: libc::stat) -> Option<Identity> {
    let is_file = status.st_mode & libc::S_IFMT == libc::S_IFREG;
    is_file.then_some((status.st_dev, status.st_ino))
}

/// Drops every lock that belongs to `descriptor`.
pub(super) fn unlock(descriptor: RawFd) -> io::Result<()> {
    control(descriptor, libc::F_OFD_SETLK, libc::F_UNLCK).map(drop)
}

/// Locks the whole file for `descriptor`. `false` where anybody has a lock on it. What can't be
/// locked because it was opened for reading is only looked at.
pub(super) fn lock_all(descriptor: RawFd) -> bool {
    let locked = control(descriptor, libc::F_OFD_SETLK, libc::F_WRLCK);
    match locked.map_err(|error| error.raw_os_error()) {
        Ok(_) => true,
        Err(Some(libc::EBADF)) => control(descriptor, libc::F_OFD_GETLK, libc::F_WRLCK)
            .is_ok_and(|found| found == libc::F_UNLCK as c_short),
        Err(_) => false,
    }
}

/// The type of lock that `command` answers with.
///
/// (The types of locks are of another type on each system.)
fn control(descriptor: RawFd, command: c_int, lock: impl Into<c_int>) -> io::Result<c_short> {
    // SAFETY: all of its fields are numbers. From the beginning to the end, whatever that is.
    let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
    wanted.l_type = lock.into() as c_short;
    wanted.l_whence = libc::SEEK_SET as c_short;
    // SAFETY: these commands take a `flock`.
    checked(unsafe { libc::fcntl(descriptor, command, &raw mut wanted) })?;
    Ok(wanted.l_type)
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
