//! `memkv doc`: the documentation, embedded, as pages for a browser or a terminal.
//!
//! With a page it prints that one. Without, on a terminal or with `--serve`, it serves all of them on loopback until
//! Ctrl-C; into a pipe it lists them, because nobody is there to open a browser. The text is the repository's own
//! Markdown, compiled in, so that a binary on a machine without a network still explains itself.

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::SocketAddr;

use crate::exit::{Exit, Failure, Outcome};

mod pages;

use pages::{FILES, PAGES, Page};

/// Show the documentation that is built into this binary
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv doc                       serve all pages at http://127.0.0.1:9902 until Ctrl-C
  memkv doc --serve >/dev/null    the same where stdout is no terminal
  memkv doc --list                what pages there are; so does memkv doc | cat
  memkv doc configuration         print one page
  memkv doc wire | less -R        page through one")]
pub(crate) struct Doc {
    /// Page to print; without one, all pages are served over HTTP, or listed where stdout is no terminal
    page: Option<String>,
    /// List the pages and what each is about
    #[arg(long, conflicts_with = "page")]
    list: bool,
    /// Serve all pages over HTTP until Ctrl-C, wherever stdout goes
    #[arg(long, conflicts_with_all = ["page", "list"])]
    serve: bool,
    /// Address to serve on
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9902")]
    address: SocketAddr,
}

impl Doc {
    pub(crate) fn run(self) -> Outcome {
        let serves = self.serve || std::io::stdout().is_terminal();
        if self.list || (self.page.is_none() && !serves) {
            let lines = PAGES
                .iter()
                .map(|page| format!("{:<18} {}\n", page.name, title(page.text)));
            crate::out::print(&lines.collect::<String>())?;
            return Ok(Exit::Done);
        }
        match &self.page {
            Some(name) => print(find(name).map_err(|error| Failure::new(Exit::Usage, error))?)?,
            None => serve(self.address)?,
        }
        Ok(Exit::Done)
    }
}

fn find(name: &str) -> Result<&'static Page> {
    let wanted = name.trim_end_matches(".md").to_lowercase();
    if let Some(page) = PAGES.iter().find(|page| page.name == wanted) {
        return Ok(page);
    }
    let names: Vec<&str> = PAGES.iter().map(|page| page.name).collect();
    bail!("no page {name:?}; there are: {}", names.join(", "))
}

fn print(page: &Page) -> std::io::Result<()> {
    if std::io::stdout().is_terminal() {
        // The skin follows the terminal's width and colours; a pipe gets the Markdown, which every pager shows.
        return crate::out::print(
            &termimad::MadSkin::default()
                .term_text(page.text)
                .to_string(),
        );
    }
    crate::out::print(page.text)
}

/// The first heading's text.
fn title(text: &str) -> &str {
    text.lines()
        .find_map(|line| line.strip_prefix("# "))
        .unwrap_or("")
        .trim()
}

fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
            format!("listen on {address}; give another one with --address, or print a page: memkv doc --list")
        })?;
        let address = listener.local_addr()?;
        crate::out::tell(format_args!("documentation at http://{address} (Ctrl-C ends)"));
        axum::serve(listener, router())
            .with_graceful_shutdown(async {
                let _ = tokio::signal::ctrl_c().await;
            })
            .await?;
        Ok(())
    })
}

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { Html(html("memkv", &index())) }))
        .route(
            "/{page}",
            get(|Path(name): Path<String>| async move { respond(&name) }),
        )
        .route(
            "/files/{*path}",
            get(|Path(path): Path<String>| async move { respond_file(&path) }),
        )
}

fn respond(name: &str) -> Response {
    match find(name) {
        Ok(page) => Html(html(title(page.text), page.text)).into_response(),
        Err(error) => (
            StatusCode::NOT_FOUND,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("{error}\n"),
        )
            .into_response(),
    }
}

/// A file that pages link to, as the text it is.
fn respond_file(path: &str) -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match FILES.iter().find(|file| file.name == path) {
        Some(file) => (text, file.text).into_response(),
        None => {
            let paths: Vec<&str> = FILES.iter().map(|file| file.name).collect();
            let error = format!("no file {path:?}; there are: {}\n", paths.join(", "));
            (StatusCode::NOT_FOUND, text, error).into_response()
        }
    }
}

fn index() -> String {
    let mut text = String::from("# memkv documentation\n\n");
    for page in PAGES {
        let _ = writeln!(text, "- [{}](/{})", title(page.text), page.name);
    }
    text
}

/// A whole page; links between the repository's files become links between pages.
fn html(title: &str, markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_HEADING_ATTRIBUTES;
    let events = Parser::new_ext(markdown, options).map(|event| match event {
        Event::Start(Tag::Link {
            link_type,
            dest_url,
            title,
            id,
        }) => {
            let dest_url = page_link(&dest_url).map_or(dest_url, CowStr::from);
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            })
        }
        // The pages are ours and hold no HTML; what looks like it (`<FILE>`) is text.
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        other => other,
    });
    let mut body = String::new();
    pulldown_cmark::html::push_html(&mut body, events);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style>\
         <nav><a href=\"/\">memkv documentation</a></nav><main>{body}</main></html>"
    )
}

/// `../docs/wire.md#frames` → `/wire#frames`, where that is one of the pages; `../LICENSE` → `/files/LICENSE`; a folder →
/// the list of all pages.
fn page_link(target: &str) -> Option<String> {
    let inside = target.trim_start_matches("../").trim_end_matches('/');
    if FILES.iter().any(|file| file.name == inside) {
        return Some(format!("/files/{inside}"));
    }
    if inside == "docs" || inside == "docs/decisions" {
        return Some("/".to_owned());
    }
    let (path, anchor) = target
        .split_once('#')
        .map_or((target, None), |(p, a)| (p, Some(a)));
    let name = path.rsplit('/').next()?.strip_suffix(".md")?.to_lowercase();
    PAGES.iter().find(|page| page.name == name)?;
    Some(anchor.map_or(format!("/{name}"), |anchor| format!("/{name}#{anchor}")))
}

const STYLE: &str = "body{font:16px/1.6 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;\
color:#1a1a1a;background:#fff}nav{border-bottom:1px solid #ccc;padding-bottom:.5rem}\
pre,code{font-family:ui-monospace,monospace;font-size:.9em;background:#f4f4f4}pre{padding:.8rem;overflow:auto}\
table{border-collapse:collapse;display:block;overflow:auto}td,th{border:1px solid #ccc;padding:.25rem .6rem;\
text-align:left;vertical-align:top}@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}\
pre,code{background:#222}a{color:#8ab4f8}td,th,nav{border-color:#444}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_of_the_repository_is_a_page() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut missing = Vec::new();
        let folders = [root.join("docs"), root.join("docs/decisions")];
        for entry in folders
            .iter()
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.file_stem().unwrap().to_str().unwrap().to_lowercase();
                if find(&name).is_err() {
                    missing.push(name);
                }
            }
        }
        assert!(
            missing.is_empty(),
            "add these to cli/src/doc/pages.rs: {missing:?}"
        );
    }

    #[test]
    fn every_page_has_a_title() {
        for page in PAGES {
            assert!(
                !title(page.text).is_empty(),
                "{} has no # heading",
                page.name
            );
        }
    }

    #[test]
    fn links_between_files_become_links_between_pages() {
        assert_eq!(page_link("../docs/cli.md"), Some("/cli".to_owned()));
        assert_eq!(page_link("cli.md#a"), Some("/cli#a".to_owned()));
        assert_eq!(page_link("https://example.org/"), None);
    }

    #[test]
    fn every_link_of_every_page_leads_somewhere() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (mut dead, mut files) = (Vec::new(), 0);
        for page in PAGES {
            for event in Parser::new(page.text) {
                let Event::Start(Tag::Link { dest_url, .. }) = event else {
                    continue;
                };
                if dest_url.starts_with('#') || dest_url.contains("://") {
                    continue;
                }
                match page_link(&dest_url).as_deref() {
                    Some("/") => {}
                    Some(link) => match link.strip_prefix("/files/") {
                        Some(path) => {
                            let served = FILES.iter().find(|file| file.name == path).unwrap();
                            let text = std::fs::read_to_string(root.join(path)).unwrap();
                            assert_eq!(served.text, text);
                            assert_eq!(respond_file(path).status(), StatusCode::OK);
                            files += 1;
                        }
                        None => {
                            let name = link.trim_start_matches('/').split('#').next().unwrap();
                            assert_eq!(respond(name).status(), StatusCode::OK, "{link}");
                        }
                    },
                    None => dead.push(format!("{}: {dest_url}", page.name)),
                }
            }
        }
        assert!(
            dead.is_empty(),
            "add these to cli/src/doc/pages.rs: {dead:?}"
        );
        assert!(files > 0);
        assert_eq!(respond_file("Cargo.toml").status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn an_unknown_page_is_answered_with_the_ones_there_are() {
        let message = find("nonsense").unwrap_err().to_string();
        assert!(
            message.contains("nonsense") && message.contains("configuration"),
            "{message}"
        );
        assert_eq!(respond("nonsense").status(), StatusCode::NOT_FOUND);
    }
}
