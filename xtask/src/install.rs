//! `make install`: the binary, shell completions and example configs under a prefix.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sh;

/// (shell, folder under the prefix, file name)
const COMPLETIONS: [(&str, &str, &str); 3] = [
    ("bash", "share/bash-completion/completions", "memkv"),
    ("zsh", "share/zsh/site-functions", "_memkv"),
    ("fish", "share/fish/vendor_completions.d", "memkv.fish"),
];

pub(crate) fn install(prefix: &Path, built: Option<&Path>) -> Result<()> {
    let built = sh::memkv(built)?;
    // A relative prefix means the caller's folder, not the workspace's root.
    let prefix = std::path::absolute(prefix).context("find the prefix")?;

    let bin = folder(&prefix.join("bin"))?;
    let memkv = bin.join("memkv");
    // Copy beside and rename: a running memkv of an earlier install can't be written over.
    let new = bin.join(".memkv.new");
    fs::copy(&built, &new)
        .with_context(|| format!("copy {} into {}", built.display(), bin.display()))?;
    fs::rename(&new, &memkv).with_context(|| format!("replace {}", memkv.display()))?;
    println!("{}", memkv.display());

    for (shell, dir, name) in COMPLETIONS {
        let script = sh::output(sh::command(&memkv).args(["completions", shell]))?;
        write(&folder(&prefix.join(dir))?.join(name), script.as_bytes())?;
    }
    for (source, dir) in [("config", ""), ("config/examples", "examples")] {
        let target = folder(&prefix.join("share/memkv/config").join(dir))?;
        for file in yaml_files(&sh::root().join(source))? {
            let name = file.file_name().context("a config file has a name")?;
            write(&target.join(name), &fs::read(&file)?)?;
        }
    }
    Ok(())
}

fn yaml_files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn folder(path: &Path) -> Result<std::path::PathBuf> {
    fs::create_dir_all(path).with_context(|| {
        format!(
            "create {}; choose a folder you may write to with PREFIX=DIR",
            path.display()
        )
    })?;
    Ok(path.to_owned())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
