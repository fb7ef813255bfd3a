//! Style, script and icon, embedded in the binary.
//!
//! An asset's address holds a hash of its content, so a browser may keep it for ever and a new
//! version of the binary is a new address. An old or wrong hash is 404, never the wrong content.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;

struct Asset {
    path: String,
    content: &'static str,
    content_type: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content: &'static str, content_type: &'static str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
        let hash: String = hex::encode(digest.as_ref()).chars().take(16).collect();
        Self { path: format!("/assets/{stem}.{hash}.{extension}"), content, content_type }
    }
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("mainstay", "css", include_str!("../../assets/mainstay.css"), "text/css; charset=utf-8")
});
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("live", "js", include_str!("../../assets/live.js"), "text/javascript; charset=utf-8"));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", include_str!("../../assets/icon.svg"), "image/svg+xml"));

pub fn style_path() -> &'static str {
    &STYLE.path
}

pub fn script_path() -> &'static str {
    &SCRIPT.path
}

pub fn icon_path() -> &'static str {
    &ICON.path
}

/// `GET /assets/{file}`
pub async fn asset(Path(file): Path<String>) -> Response {
    let wanted = format!("/assets/{file}");
    match [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.path == wanted) {
        Some(asset) => (
            [
                (header::CONTENT_TYPE, asset.content_type),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ],
            asset.content,
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_asset_is_kept_for_ever_under_the_hash_of_its_content() {
        let file = style_path().strip_prefix("/assets/").expect("the path has its folder").to_owned();
        let answer = asset(Path(file)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(answer.headers()["content-type"], "text/css; charset=utf-8");
    }

    #[tokio::test]
    async fn another_hash_is_not_found() {
        assert_eq!(asset(Path("mainstay.0000000000000000.css".into())).await.status(), StatusCode::NOT_FOUND);
        assert_eq!(asset(Path("../Cargo.toml".into())).await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn style_and_script_stay_small() {
        assert!(STYLE.content.len() < 32 * 1024, "the style has {} bytes", STYLE.content.len());
        assert!(SCRIPT.content.len() < 16 * 1024, "the script has {} bytes", SCRIPT.content.len());
    }
}
