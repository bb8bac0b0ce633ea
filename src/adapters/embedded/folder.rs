//! The data folder, and the lock that keeps a second process out of it.
//!
//! The lock is the kernel's (`flock`), on the file `lock`, which also holds the owner's pid. A killed process leaves
//! the file behind, but not the lock.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::OpenError;

/// Held as long as this process owns the folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if it is missing (readable by its owner only) and takes it.
    ///
    /// # Errors
    /// [`OpenError::Folder`], or [`OpenError::InUse`] if another process has it.
    pub(super) fn take(data_dir: &Path) -> Result<FolderLock, OpenError> {
        let failed = |source| folder_error(data_dir, source);
        make(data_dir).map_err(failed)?;
        let path = data_dir.join("lock");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The owner may be about to write it: then it is just not named.
                let pid = match file.read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(OpenError::InUse { data_dir: data_dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(FolderLock { _file: file })
    }
}

fn folder_error(data_dir: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::StorageFull {
        OpenError::DiskFull { path: data_dir.to_owned() }
    } else {
        OpenError::Folder { data_dir: data_dir.to_owned(), source }
    }
}

fn make(data_dir: &Path) -> io::Result<()> {
    if data_dir.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(data_dir)?;
    // SQLite syncs what it makes in the folder, but not the folder's own name: without this a power cut could take
    // the whole folder.
    let parent = data_dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_come_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("a/b");
        let first = FolderLock::take(&data_dir).unwrap();
        let error = FolderLock::take(&data_dir).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        FolderLock::take(&data_dir).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_look_into_a_folder_that_is_made() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let _lock = FolderLock::take(&data_dir).unwrap();
        let mode = data_dir.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_is_no_folder_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = FolderLock::take(&file.path().join("data")).unwrap_err();
        assert!(matches!(error, OpenError::Folder { .. }), "{error:?}");
        let name = file.path().to_str().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}
