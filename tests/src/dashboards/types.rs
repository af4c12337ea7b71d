//! Holds dashboards against Grafana's own types with its own compiler: what would be ignored or would break in a
//! browser is an error here. Grafana itself need not be there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::host::run;

/// The files that make a folder one in which dashboards can be checked.
const FILES: [&str; 5] = [
    ".npmrc",
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "dashboard.ts",
];

static CHECKS: AtomicU32 = AtomicU32::new(0);

/// A folder with Grafana's types and the compiler.
#[derive(Debug)]
pub struct GrafanaTypes {
    directory: PathBuf,
}

impl GrafanaTypes {
    /// Installs them under `target`, unless exactly these are there.
    pub fn installed(target: &Path) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
        let directory = target.join("dashboards");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let lock = File::create(directory.join(".lock")).context("create the lock of the types' folder")?;
        lock.lock()
            .context("wait for another test run to install Grafana's types")?;
        let installed = directory.join("node_modules/.package-lock.json").exists()
            && fs::read(directory.join("package-lock.json")).ok()
                == fs::read(source.join("package-lock.json")).ok();
        for file in FILES {
            fs::copy(source.join(file), directory.join(file)).with_context(|| format!("copy {file}"))?;
        }
        if !installed {
            run(Command::new("npm").arg("ci").current_dir(&directory))?;
        }
        Ok(Self { directory })
    }

    /// What the compiler finds wrong, by the names given; a dashboard that is right is not in it.
    pub fn errors(&self, dashboards: &[(&str, &Value)]) -> Result<BTreeMap<String, Vec<String>>> {
        let number = CHECKS.fetch_add(1, Ordering::Relaxed);
        let check = self
            .directory
            .join(format!("check-{}-{number}", std::process::id()));
        fs::create_dir(&check).with_context(|| format!("create {}", check.display()))?;
        let result = Self::compile(&self.directory, &check, dashboards);
        fs::remove_dir_all(&check).with_context(|| format!("remove {}", check.display()))?;
        result
    }

    fn compile(
        directory: &Path,
        check: &Path,
        dashboards: &[(&str, &Value)],
    ) -> Result<BTreeMap<String, Vec<String>>> {
        let project = r#"{ "extends": "../tsconfig.json", "include": ["*.ts"] }"#;
        fs::write(check.join("tsconfig.json"), project).context("write tsconfig.json")?;
        for (name, dashboard) in dashboards {
            let text = format!(
                "import type {{ Dashboard }} from \"../dashboard\";\nexport const dashboard: Dashboard = {dashboard:#};\n"
            );
            fs::write(check.join(format!("{name}.ts")), text).with_context(|| format!("write {name}.ts"))?;
        }
        let output = Command::new(directory.join("node_modules/.bin/tsc"))
            .args(["--pretty", "false", "--project", "."])
            .current_dir(check)
            .output()
            .context("run tsc")?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut errors = BTreeMap::<String, Vec<String>>::new();
        // A message's further lines are indented and only explain the first.
        for line in stdout.lines().filter(|line| !line.starts_with(' ')) {
            match line.split_once(".ts(") {
                Some((name, _)) if dashboards.iter().any(|(known, _)| *known == name) => {
                    errors.entry(name.to_owned()).or_default().push(line.to_owned());
                }
                _ => bail!("tsc fails on something other than a dashboard: {line}"),
            }
        }
        if errors.is_empty() && !output.status.success() {
            bail!(
                "tsc ended with {} and said nothing: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(errors)
    }
}
