//! `[projects]`: which projects a shared server knows, where each is on the disk, and what else it is called.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use crate::{nearest, scope::ProjectId};

/// The table's name.
pub(super) const SECTION: &str = "projects";

/// Keys of one project.
const KEYS: [&str; 2] = ["root", "alias"];

/// One project of the user's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectSetting {
    /// What memories belong to.
    pub id: ProjectId,
    /// The folder that its file and git steps work on: absolute, perhaps not there. Without it there are none.
    pub root: Option<PathBuf>,
    /// Another name that paths and tokens may use.
    pub alias: Option<String>,
}

impl ProjectSetting {
    /// Adds it to `others`, whose names must all differ from its own.
    pub(super) fn add_to(self, others: &mut Vec<Self>) -> Result<(), String> {
        let taken = |name: &str| {
            others.iter().any(|other| other.id.as_str() == name || other.alias.as_deref() == Some(name))
        };
        let names = [Some(self.id.as_str()), self.alias.as_deref()];
        if let Some(name) = names.into_iter().flatten().find(|name| taken(name)) {
            return Err(format!("two projects are called `{name}`"));
        }
        if self.alias.as_deref() == Some(self.id.as_str()) {
            return Err(format!("the alias of `{}` is its id: leave it out", self.id));
        }
        others.push(self);
        Ok(())
    }
}

/// One entry as found, and where in the file.
pub(super) struct Entry {
    pub(super) offset: usize,
    pub(super) project: Result<ProjectSetting, String>,
}

/// Every entry of the table `value`.
pub(super) fn read(value: &DeValue<'_>) -> Vec<Entry> {
    let DeValue::Table(table) = value else {
        let fault = "`projects` is a table of tables, as in `[projects.web]` with `root = \"/srv/web\"`";
        return vec![Entry { offset: 0, project: Err(fault.to_owned()) }];
    };
    table
        .iter()
        .map(|(name, value)| Entry {
            offset: name.span().start,
            project: one(name.get_ref(), value.get_ref()),
        })
        .collect()
}

fn one(name: &str, value: &DeValue<'_>) -> Result<ProjectSetting, String> {
    let id = project_name(name)?;
    let DeValue::Table(table) = value else {
        return Err(format!("`projects.{name}` is a table with `root` and `alias`"));
    };
    let mut project = ProjectSetting { id, root: None, alias: None };
    for (key, value) in table {
        match (&**key.get_ref(), value.get_ref()) {
            ("root", DeValue::String(root)) if Path::new(&**root).is_absolute() => {
                project.root = Some(PathBuf::from(&**root));
            }
            ("root", _) => return Err(format!("`projects.{name}.root` must be an absolute path")),
            ("alias", DeValue::String(alias)) => {
                project_name(alias)?;
                if is_derived(alias) {
                    return Err(format!("`projects.{name}.alias` looks like the id of another project"));
                }
                project.alias = Some(alias.to_string());
            }
            ("alias", _) => return Err(format!("`projects.{name}.alias` must be text")),
            (other, _) => {
                let shown: String = other.chars().filter(|c| !c.is_control()).take(64).collect();
                let hint = nearest::hint(other, KEYS);
                return Err(format!("unknown key `projects.{name}.{shown}`{hint}"));
            }
        }
    }
    Ok(project)
}

pub(super) fn project_name(name: &str) -> Result<ProjectId, String> {
    let id = ProjectId::parse(name).filter(|id| *id != ProjectId::personal());
    id.ok_or_else(|| {
        "a project is named by 1 to 64 letters, digits, `_`, `-` or `.`; `personal` is everybody's own already"
            .to_owned()
    })
}

/// Whether `name` has the form of an id that is made from a path.
fn is_derived(name: &str) -> bool {
    name.strip_prefix("p_")
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
