//! Locks on SQLite's files that hold beside another SQLite in the same process.
//!
//! POSIX locks belong to a process: whoever closes any descriptor of a file drops the locks that
//! anybody else in the process holds on it. Python's `sqlite3` is another library than ours, and so
//! each dropped the other's locks, and then took a database in use for an abandoned one
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2.1). Therefore our SQLite
//!
//! * locks through one descriptor a file, with locks that belong to this descriptor (OFD locks): the
//!   other library meets them like those of another process, and can't drop them;
//! * closes no descriptor of a file on which anybody, the other library included, holds a lock: it
//!   keeps the descriptor for its own next use of that file;
//! * knows none of its parent's files after a fork, so that a child locks for itself.
//!
//! SQLite makes its system calls through a table that may be changed: that is done here.
#![expect(unsafe_code, reason = "SQLite's table of system calls is C")]

mod files;
mod system;

use std::{
    cell::Cell,
    ffi::{CStr, c_char, c_int, c_void},
    io,
    mem::transmute,
    sync::{
        MutexGuard,
        atomic::{AtomicU8, Ordering},
    },
};

use errno::{Errno, set_errno};
use libsqlite3_sys as sqlite;

use files::{Files, lock};

/// Makes our SQLite lock as this module says. Before it opens a file.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: `sqlite3_vfs_find` initialises SQLite, and gives a VFS that lives as long as the
    // process. The functions have the signatures by which SQLite calls those that they replace
    // (`aSyscall` in os_unix.c).
    unsafe {
        let vfs = sqlite::sqlite3_vfs_find(c"unix".as_ptr());
        let set = vfs.as_ref().and_then(|vfs| vfs.xSetSystemCall);
        let set = set.ok_or_else(|| io::Error::other("SQLite has no VFS `unix`"))?;
        for (name, call) in [
            (c"open", open as *const ()),
            (c"close", close as *const ()),
            (c"fcntl", fcntl as *const ()),
            (c"stat", stat as *const ()),
            (c"fstat", fstat as *const ()),
        ] {
            let call = transmute::<*const (), unsafe extern "C" fn()>(call);
            if set(vfs, name.as_ptr(), Some(call)) != sqlite::SQLITE_OK {
                return Err(io::Error::other("SQLite's system calls can't be set"));
            }
        }
        match libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: SQLite's paths end in NUL.
    let path = unsafe { CStr::from_ptr(path) };
    returned(lock().open(path, flags, mode))
}

extern "C" fn close(descriptor: c_int) -> c_int {
    returned(lock().close(descriptor).map(|()| 0))
}

/// As C's `fcntl(descriptor, command, ...)` takes its third argument.
#[cfg(not(all(target_vendor = "apple", target_arch = "aarch64")))]
unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: as the caller's.
    unsafe { control(descriptor, command, argument) }
}

/// As C's `fcntl(descriptor, command, ...)` takes its third argument: Apple's arm64 has variable
/// arguments on the stack, where a fixed one comes after the eight in registers.
#[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
#[expect(clippy::too_many_arguments, reason = "six are skipped")]
unsafe extern "C" fn fcntl(
    descriptor: c_int,
    command: c_int,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as the caller's.
    unsafe { control(descriptor, command, argument) }
}

/// # Safety
/// `argument` is what `command` needs.
unsafe fn control(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let command = match command {
        libc::F_SETLK => libc::F_OFD_SETLK,
        libc::F_SETLKW => libc::F_OFD_SETLKW,
        libc::F_GETLK => libc::F_OFD_GETLK,
        // SAFETY: as the caller's.
        _ => return unsafe { libc::fcntl(descriptor, command, argument) },
    };
    // The table is free again: this may wait.
    let locking = lock().locking_descriptor(descriptor);
    match locking {
        Ok(locking) => {
            let wanted = argument.cast::<libc::flock>();
            // SAFETY: these commands take a `flock`, and want no process in it.
            unsafe {
                (*wanted).l_pid = 0;
                libc::fcntl(locking, command, wanted)
            }
        }
        Err(error) => returned(Err(error)),
    }
}

unsafe extern "C" fn stat(path: *const c_char, status: *mut libc::stat) -> c_int {
    // SAFETY: as the caller's.
    unsafe { marked(libc::stat(path, status), status) }
}

unsafe extern "C" fn fstat(descriptor: c_int, status: *mut libc::stat) -> c_int {
    // SAFETY: as the caller's.
    unsafe { marked(libc::fstat(descriptor, status), status) }
}

/// How many forks lie between the process that loaded this module and this one.
static FORKS: AtomicU8 = AtomicU8::new(0);

/// SQLite knows an open file by its device and its number, and would take a child's for its
/// parent's, on which it holds locks: in a child they are on another device.
unsafe fn marked(result: c_int, status: *mut libc::stat) -> c_int {
    if result == 0 {
        let forks = libc::dev_t::from(FORKS.load(Ordering::Relaxed));
        // SAFETY: the caller has filled it.
        unsafe { (*status).st_dev ^= forks << (libc::dev_t::BITS - 8) };
    }
    result
}

/// As a function of C tells it.
fn returned(result: io::Result<c_int>) -> c_int {
    result.unwrap_or_else(|error| {
        set_errno(Errno(error.raw_os_error().unwrap_or(libc::EIO)));
        -1
    })
}

/// What a thread within SQLite may hold at any moment, in the order in which it takes them (a name for
/// a temporary file needs random numbers, and their seed the list of VFS). In a child nobody would
/// let go of them.
const MUTEXES: [i32; 6] = [
    sqlite::SQLITE_MUTEX_STATIC_VFS1,
    sqlite::SQLITE_MUTEX_STATIC_PRNG,
    sqlite::SQLITE_MUTEX_STATIC_MAIN,
    sqlite::SQLITE_MUTEX_STATIC_LRU,
    sqlite::SQLITE_MUTEX_STATIC_PMEM,
    sqlite::SQLITE_MUTEX_STATIC_MEM,
];

thread_local! {
    static HELD_OVER_FORK: Cell<Option<MutexGuard<'static, Files>>> = const { Cell::new(None) };
}

extern "C" fn before_fork() {
    for mutex in MUTEXES {
        // SAFETY: these exist always.
        unsafe { sqlite::sqlite3_mutex_enter(sqlite::sqlite3_mutex_alloc(mutex)) };
    }
    HELD_OVER_FORK.set(Some(lock()));
}

extern "C" fn after_fork() {
    HELD_OVER_FORK.set(None);
    for mutex in MUTEXES.into_iter().rev() {
        // SAFETY: `before_fork` entered them on this thread.
        unsafe { sqlite::sqlite3_mutex_leave(sqlite::sqlite3_mutex_alloc(mutex)) };
    }
}

extern "C" fn in_child() {
    if let Some(mut files) = HELD_OVER_FORK.take() {
        files.forget();
    }
    FORKS.fetch_add(1, Ordering::Relaxed);
    after_fork();
}
