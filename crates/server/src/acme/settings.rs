//! What a person set up, kept as one named document.

use crate::certificates::read::is_certificate;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::domains::AcmeSettings;
use store::Scope;

const PREFIX: &str = "acme/";
const NAME: &str = "settings";
const ROOT_LIMIT_BYTES: usize = 64 * 1024;

pub async fn read(state: &AppState, scope: &Scope) -> Result<AcmeSettings> {
    let kept: Vec<(String, AcmeSettings)> = state.store().setting_list(scope, &format!("{PREFIX}{NAME}")).await?;
    Ok(kept.into_iter().next().map(|(_, settings)| settings).unwrap_or_default())
}

pub async fn store(state: &AppState, scope: &Scope, settings: &AcmeSettings) -> Result<()> {
    check(settings)?;
    Ok(state.store().setting_put(scope, &format!("{PREFIX}{NAME}"), settings).await?)
}

fn check(settings: &AcmeSettings) -> Result<()> {
    let url = url::Url::parse(&settings.directory_url).ok();
    if !url.is_some_and(|url| url.scheme() == "https" && url.host_str().is_some()) || settings.directory_url.len() > 500
    {
        return Err(HttpError::invalid("directory_url", "the address of an ACME directory begins with https://"));
    }
    if let Some(contact) = &settings.contact {
        let plausible = contact.len() <= 200
            && contact.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
            && contact.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ',' | '<' | '>' | '"' | '?' | ':'));
        if !plausible {
            return Err(HttpError::invalid("contact", format!("`{}` is not an address for mail", shown(contact))));
        }
    }
    if let Some(root) = &settings.root
        && (root.len() > ROOT_LIMIT_BYTES || !is_certificate(root))
    {
        return Err(HttpError::invalid("root", "this is not a certificate in PEM"));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_could_not_work_are_refused() {
        let good = AcmeSettings { contact: Some("ops@example.com".into()), ..AcmeSettings::default() };
        assert!(check(&good).is_ok());
        for bad in [
            AcmeSettings { directory_url: "http://authority/dir".into(), ..good.clone() },
            AcmeSettings { directory_url: "nonsense".into(), ..good.clone() },
            AcmeSettings { contact: Some("ops".into()), ..good.clone() },
            AcmeSettings { contact: Some("a@b.c, d@e.f".into()), ..good.clone() },
            AcmeSettings { root: Some("nonsense".into()), ..good.clone() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
