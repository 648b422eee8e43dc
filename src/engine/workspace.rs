//! Which folder a process works on, and which project that is. Values are handed in; nothing is run.

use std::path::{Path, PathBuf};

use super::{
    Workspace,
    steps::git::discover::{NoLayout, layout},
};
use crate::scope::ProjectId;

/// Where the workspace root may be said, strongest first; an empty value counts as unset.
#[derive(Clone, Copy, Debug, Default)]
pub struct RootSources<'a> {
    /// What the configuration of a shared server gives a project.
    pub configured: Option<&'a Path>,
    /// The command line.
    pub flag: Option<&'a Path>,
    /// `TMWS_ROOT`, or the setting of that name.
    pub tmws_root: Option<&'a Path>,
    /// `CLAUDE_PROJECT_DIR`, set by the host.
    pub claude_project_dir: Option<&'a Path>,
    /// The current directory.
    pub cwd: Option<&'a Path>,
    /// The user's home directory, which is never a workspace.
    pub home: Option<&'a Path>,
}

impl RootSources<'_> {
    /// The first source that is set, and its name.
    fn first(&self) -> Option<(&'static str, &Path)> {
        [
            ("[projects] in tmws.toml", self.configured),
            ("--root", self.flag),
            ("TMWS_ROOT", self.tmws_root),
            ("CLAUDE_PROJECT_DIR", self.claude_project_dir),
            ("the current directory", self.cwd),
        ]
        .into_iter()
        .find_map(|(name, path)| Some((name, path.filter(|path| !path.as_os_str().is_empty())?)))
    }
}

/// The workspace of `sources`: the strongest source that is set decides, even where it cannot be used.
///
/// `/`, the home directory and what lies above it are refused: file steps there would read everything the user has. A
/// relative path is taken from `cwd`. The current directory stands for the repository that it lies in, if there is one; a
/// folder that was named stands for itself. The root is canonical.
#[must_use]
pub fn resolve_root(sources: &RootSources<'_>) -> Workspace {
    let none = |reason: String| Workspace::None { reason };
    let advice = if sources.configured.is_some() {
        "let it name a project's folder"
    } else {
        "set TMWS_ROOT to a project's folder, or start tmws in one"
    };
    let Some((name, path)) = sources.first() else {
        return none(format!("no folder to work on is known; {advice}"));
    };
    let path = sources.cwd.map_or_else(|| path.to_owned(), |cwd| cwd.join(path));
    let here = path.display();
    let root = match path.canonicalize() {
        Ok(root) if root.is_dir() => root,
        Ok(_) => return none(format!("{here} ({name}) is not a folder; {advice}")),
        Err(error) => return none(format!("{here} ({name}) cannot be used: {}; {advice}", error.kind())),
    };
    if root.parent().is_none() {
        return none(format!("{here} ({name}) is the whole file system, which is no workspace; {advice}"));
    }
    if home(sources.home).is_some_and(|home| home.starts_with(&root)) {
        return none(format!(
            "{here} ({name}) is or holds the home directory, which is no workspace; {advice}"
        ));
    }
    let named = [sources.configured, sources.flag, sources.tmws_root, sources.claude_project_dir];
    if named.into_iter().flatten().all(|path| path.as_os_str().is_empty())
        && let Some((top, _)) = repository_around(&root, sources.home)
    {
        return Workspace::Root(top);
    }
    Workspace::Root(root)
}

/// The project of the canonical folder `root`: the hash of the canonical git common directory of the repository that it
/// lies in (so all work trees and sub-folders of one repository are one project), else of `root` itself.
///
/// The search goes up from `root` and ends below `home` and at the first folder of another owner: a repository in the
/// home directory, or one that somebody put into a shared folder, does not swallow the projects beneath it. A `.git` that
/// leads to a repository which does not list the folder is not followed: nobody joins a project by pointing at it.
#[must_use]
pub fn project_of(root: &Path, home_dir: Option<&Path>) -> ProjectId {
    let common_dir = repository_around(root, home_dir).map(|(_, common_dir)| common_dir);
    ProjectId::of_path(common_dir.as_deref().unwrap_or(root))
}

/// The top of the repository that `root` lies in, and its common directory.
fn repository_around(root: &Path, home_dir: Option<&Path>) -> Option<(PathBuf, PathBuf)> {
    let home = home(home_dir);
    let owner = owner(root);
    for folder in root.ancestors() {
        let above_home = home.as_deref().is_some_and(|home| home.starts_with(folder));
        if above_home || folder.parent().is_none() || self::owner(folder) != owner {
            break;
        }
        match layout(folder) {
            Ok(layout) => return Some((folder.to_owned(), layout.common_dir)),
            Err(NoLayout::Absent) => {}
            Err(NoLayout::Broken | NoLayout::Foreign) => break,
        }
    }
    None
}

fn home(path: Option<&Path>) -> Option<PathBuf> {
    path.filter(|path| path.is_absolute()).and_then(|path| path.canonicalize().ok())
}

fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|metadata| metadata.uid())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    struct Place {
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { path: folder.path().canonicalize().unwrap(), _folder: folder }
        }

        fn folder(&self, path: &str) -> PathBuf {
            let path = self.path.join(path);
            fs::create_dir_all(&path).unwrap();
            path
        }

        fn git(&self, folder: &str, arguments: &[&str]) {
            let status = Command::new("git")
                .current_dir(self.folder(folder))
                .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
                .args(arguments)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .status()
                .unwrap();
            assert!(status.success(), "git {arguments:?}");
        }
    }

    fn reason(workspace: Workspace) -> String {
        match workspace {
            Workspace::None { reason } => reason,
            Workspace::Root(root) => panic!("not refused: {}", root.display()),
        }
    }

    #[test]
    fn the_strongest_source_that_is_set_decides() {
        let place = Place::new();
        let (one, two, three) = (place.folder("one"), place.folder("two"), place.folder("three"));
        let empty = Path::new("");
        let all = RootSources {
            configured: None,
            flag: Some(&one),
            tmws_root: Some(&two),
            claude_project_dir: Some(&three),
            cwd: Some(&place.path),
            home: None,
        };
        let root = |sources| match resolve_root(&sources) {
            Workspace::Root(root) => root,
            Workspace::None { reason } => panic!("{reason}"),
        };
        assert_eq!(root(all), one);
        assert_eq!(root(RootSources { flag: None, ..all }), two);
        assert_eq!(root(RootSources { flag: Some(empty), tmws_root: None, ..all }), three);
        let cwd_only = RootSources { flag: None, tmws_root: None, claude_project_dir: Some(empty), ..all };
        assert_eq!(root(cwd_only), place.path);
        assert_eq!(root(RootSources { flag: Some(Path::new("two/../one")), ..all }), one);
        let missing = place.path.join("missing");
        let refused = reason(resolve_root(&RootSources { tmws_root: Some(&missing), flag: None, ..all }));
        assert!(refused.contains("missing (TMWS_ROOT) cannot be used"), "{refused}");
    }

    #[test]
    fn the_file_system_the_home_directory_and_what_holds_it_are_refused() {
        let place = Place::new();
        let home = place.folder("home/ada");
        std::os::unix::fs::symlink(&home, place.path.join("link")).unwrap();
        for path in [Path::new("/"), home.as_path(), &place.path.join("home"), &place.path.join("link")] {
            let refused = reason(resolve_root(&RootSources {
                cwd: Some(path),
                home: Some(&home),
                ..RootSources::default()
            }));
            assert!(refused.contains("is no workspace; set TMWS_ROOT"), "{refused}");
        }
        let project = place.folder("home/ada/project");
        let sources = RootSources { cwd: Some(&project), home: Some(&home), ..RootSources::default() };
        assert_eq!(resolve_root(&sources), Workspace::Root(project));
        assert!(reason(resolve_root(&RootSources::default())).contains("no folder to work on"));
    }

    #[test]
    fn work_trees_and_folders_of_one_repository_are_one_project() {
        let place = Place::new();
        place.git("repo", &["init", "-q"]);
        place.git("repo", &["commit", "-q", "--allow-empty", "-m", "x"]);
        place.git("repo", &["worktree", "add", "-q", "../tree", "-b", "side"]);
        let repo = project_of(&place.folder("repo"), None);
        assert_eq!(repo, ProjectId::of_path(&place.path.join("repo/.git")));
        assert_eq!(project_of(&place.folder("repo/src/deep"), None), repo);
        assert_eq!(project_of(&place.path.join("tree"), None), repo);
        // The current directory stands for the repository around it, a folder that was named for itself.
        let deep = place.folder("repo/src/deep");
        let sources = RootSources { cwd: Some(&deep), ..RootSources::default() };
        assert_eq!(resolve_root(&sources), Workspace::Root(place.path.join("repo")));
        let sources = RootSources { tmws_root: Some(&deep), ..sources };
        assert_eq!(resolve_root(&sources), Workspace::Root(deep.clone()));
        let plain = place.folder("plain");
        assert_eq!(project_of(&plain, None), ProjectId::of_path(&plain));
    }

    #[test]
    fn nobody_joins_a_project_by_pointing_at_it() {
        let place = Place::new();
        place.git("repo", &["init", "-q"]);
        let thief = place.folder("thief");
        fs::write(thief.join(".git"), format!("gitdir: {}\n", place.path.join("repo/.git").display()))
            .unwrap();
        assert_eq!(project_of(&thief, None), ProjectId::of_path(&thief));
        fs::remove_file(thief.join(".git")).unwrap();
        std::os::unix::fs::symlink(place.path.join("repo/.git"), thief.join(".git")).unwrap();
        assert_eq!(project_of(&thief, None), ProjectId::of_path(&thief));
    }

    #[test]
    fn a_repository_in_the_home_directory_does_not_swallow_projects() {
        let place = Place::new();
        place.git("home", &["init", "-q"]);
        let project = place.folder("home/project");
        let home = place.path.join("home");
        assert_eq!(project_of(&project, Some(&home)), ProjectId::of_path(&project));
        assert_eq!(project_of(&project, None), ProjectId::of_path(&home.join(".git")));
    }
}
