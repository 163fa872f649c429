//! ACL users, as they can be restored.
//!
//! Owns the parsing of ACL GETUSER, whose format depends on the version. Passwords are known as hashes only.

use redis::Value;

/// The parts of a user that the drill changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::drill) struct AclUser {
    name: String,
    /// `nopass`, or `#` and a hash for each.
    passwords: Vec<String>,
    /// `&` and a pattern for each.
    channels: Vec<String>,
}

impl AclUser {
    pub(super) fn read(name: &str, user: &Value) -> Self {
        let field = |name: &str| map_value(user.clone(), name).map(strings).unwrap_or_default();
        let passwords = if field("flags").iter().any(|flag| flag == "nopass") {
            vec!["nopass".to_owned()]
        } else {
            field("passwords").into_iter().map(|hash| format!("#{hash}")).collect()
        };
        // Redis 6 returns a list, Redis 7 one text.
        let listed = field("channels");
        let patterns = listed.iter().flat_map(|text| text.split(' ')).filter(|pattern| !pattern.is_empty());
        let channels = patterns.map(|pattern| format!("&{}", pattern.trim_start_matches('&'))).collect();
        Self { name: name.to_owned(), passwords, channels }
    }

    /// The command that restores the passwords.
    pub(in crate::drill) fn restore_passwords(&self) -> Vec<String> {
        self.command("resetpass", &self.passwords)
    }

    /// The command that restores the channels.
    pub(in crate::drill) fn restore_channels(&self) -> Vec<String> {
        self.command("resetchannels", &self.channels)
    }

    fn command(&self, first: &str, rules: &[String]) -> Vec<String> {
        let command = ["ACL", "SETUSER", &self.name, first].map(ToOwned::to_owned);
        command.into_iter().chain(rules.iter().cloned()).collect()
    }
}

/// Strings of a list or a map.
pub(super) fn strings(value: Value) -> Vec<String> {
    match value {
        Value::Array(values) | Value::Set(values) => values.into_iter().flat_map(strings).collect(),
        Value::Map(pairs) => {
            pairs.into_iter().flat_map(|(key, value)| [key, value]).flat_map(strings).collect()
        }
        value => redis::from_redis_value(value).into_iter().collect(),
    }
}

/// Value of a key in a map.
pub(super) fn map_value(value: Value, wanted: &str) -> Option<Value> {
    let is_wanted =
        |key: &Value| redis::from_redis_value::<String>(key.clone()).is_ok_and(|key| key == wanted);
    match value {
        Value::Map(pairs) => pairs.into_iter().find(|(key, _)| is_wanted(key)).map(|(_, value)| value),
        Value::Array(values) => {
            let place = values.chunks(2).position(|pair| is_wanted(&pair[0]))?;
            values.into_iter().nth(2 * place + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn list(strings: &[&str]) -> Value {
        Value::Array(strings.iter().copied().map(text).collect())
    }

    #[test]
    fn maps_are_parsed_in_both_formats() {
        let array = list(&["a", "1", "b", "2"]);
        let map = Value::Map(vec![(text("a"), text("1")), (text("b"), text("2"))]);
        for value in [array, map] {
            assert_eq!(map_value(value.clone(), "b"), Some(text("2")));
            assert_eq!(map_value(value, "c"), None);
        }
    }

    #[test]
    fn user_is_restored_in_both_formats() {
        let restores = |flags: Value, channels: Value| {
            let passwords = list(&["12ab", "34cd"]);
            let fields = [("flags", flags), ("passwords", passwords), ("channels", channels)];
            let user = Value::Map(fields.map(|(name, value)| (text(name), value)).to_vec());
            let user = AclUser::read("bob", &user);
            (user.restore_passwords().join(" "), user.restore_channels().join(" "))
        };
        let of_seven = restores(list(&["on"]), text("&web-* &nest"));
        let of_six = restores(list(&["on"]), list(&["web-*", "nest"]));
        let expected =
            ("ACL SETUSER bob resetpass #12ab #34cd", "ACL SETUSER bob resetchannels &web-* &nest");
        assert_eq!((of_seven.0.as_str(), of_seven.1.as_str()), expected);
        assert_eq!(of_six, of_seven);
        assert_eq!(restores(list(&["on", "nopass"]), text("&*")).0, "ACL SETUSER bob resetpass nopass");
    }
}
