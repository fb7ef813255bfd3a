//! One type per kind of entity, so that an id of one can never be passed for another.
//!
//! The text form is a three- or four-letter prefix, an underscore and 32 hexadecimal digits
//! (`srv_018f…`), so that an id in a log line says what it names. Making a fresh id needs
//! randomness; that is the caller's business: [`from_uuid`](ServerId::from_uuid) only gives it form.

use crate::text::text_form;
use std::fmt;
use std::str::FromStr;

const DIGITS: usize = 32;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {noun} id; expected `{prefix}_` and 32 hexadecimal digits")]
pub struct IdError {
    pub noun: &'static str,
    pub prefix: &'static str,
    pub value: String,
}

/// The text itself, if it is prefix, underscore and digits.
fn parse<const LENGTH: usize>(prefix: &str, value: &str) -> Option<[u8; LENGTH]> {
    let digits = value.strip_prefix(prefix)?.strip_prefix('_')?;
    let all_are_digits = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if all_are_digits { value.as_bytes().try_into().ok() } else { None }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal, $prefix:literal) => {
        $(#[$doc])*
        // The text lies in the value: ids are copied, compared and looked up all the time.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        pub struct $name([u8; $prefix.len() + 1 + DIGITS]);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            pub fn from_uuid(uuid: uuid::Uuid) -> Self {
                let mut text = [b'_'; $prefix.len() + 1 + DIGITS];
                text[..$prefix.len()].copy_from_slice($prefix.as_bytes());
                uuid.simple().encode_lower(&mut text[$prefix.len() + 1..]);
                Self(text)
            }

            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).expect("prefix, underscore and digits are ASCII")
            }

            /// The last eight digits: enough for a person to tell two apart.
            pub fn short(&self) -> &str {
                &self.as_str()[self.0.len() - 8..]
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                let error = || IdError { noun: $noun, prefix: $prefix, value: value.chars().take(80).collect() };
                parse($prefix, value).map(Self).ok_or_else(error)
            }
        }

        text_form!($name, IdError);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

id!(
    /// A tenant; owns everything below it.
    OrganizationId, "organization", "org"
);
id!(
    /// A group of services that see each other by name.
    ProjectId, "project", "prj"
);
id!(
    /// A manifest: the services of a project as written by the user.
    StackId, "stack", "stk"
);
id!(
    /// One thing that runs.
    ServiceId, "service", "svc"
);
id!(
    /// An immutable snapshot of a service.
    RevisionId, "revision", "rev"
);
id!(
    /// Making one revision live.
    DeploymentId, "deployment", "dep"
);
id!(
    /// One replica of a revision on one server.
    InstanceId, "instance", "ins"
);
id!(
    /// A machine with an agent.
    ServerId, "server", "srv"
);
id!(
    /// Something that happened.
    EventId, "event", "evt"
);
id!(
    /// A person who signs in.
    UserId, "user", "usr"
);
id!(
    /// A credential: a one-time join token or an API token.
    TokenId, "token", "tok"
);
id!(
    /// One request to the control plane; every mutation carries it into events.
    RequestId, "request", "req"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = ServerId::from_uuid(uuid::Uuid::from_u128(7));
        assert_eq!(id.to_string(), "srv_00000000000000000000000000000007");
        assert_eq!(id.to_string().parse::<ServerId>(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let service = ServiceId::from_uuid(uuid::Uuid::from_u128(7)).to_string();
        assert!(service.parse::<ServerId>().is_err());
        assert!(serde_json::from_str::<ServerId>(&format!("{service:?}")).is_err());
    }

    #[test]
    fn an_id_with_a_path_in_it_is_refused() {
        assert!("srv_../../../../etc/passwd0000000000000".parse::<ServerId>().is_err());
    }
}
