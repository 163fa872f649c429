//! The permissions of an API key.

use wildmatch::WildMatch;

use super::error::ApiAuthError;
use super::method::{ApiMethod, Reach, Scope};

/// The permissions of the key that authenticated a request.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiPermissions {
    name: Box<str>,
    scopes: Box<[Scope]>,
    /// Globs over the names of namespaces; `None`: all.
    namespaces: Option<Box<[WildMatch]>>,
}

impl ApiPermissions {
    /// A key of this name with these scopes. `namespaces` are globs over the names of namespaces; `None`: all.
    pub fn new(name: &str, scopes: &[Scope], namespaces: Option<&[String]>) -> Self {
        let globs = |globs: &[String]| globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { name: name.into(), scopes: scopes.into(), namespaces: namespaces.map(globs) }
    }

    /// Everything, under this name.
    pub fn all(name: &str) -> Self {
        Self::new(name, &Scope::ALL, None)
    }

    /// The name of the key, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the key is for some namespaces only.
    pub fn is_restricted(&self) -> bool {
        self.namespaces.is_some()
    }

    /// Decides whether the key may call a method. A method that uses channels also requires [`Self::check_namespace`]
    /// for each of them.
    ///
    /// # Errors
    /// [`ApiAuthError::Scope`], [`ApiAuthError::Restricted`].
    pub fn check_method(&self, method: ApiMethod) -> Result<(), ApiAuthError> {
        if !self.scopes.contains(&method.scope()) {
            return Err(ApiAuthError::Scope(method.scope()));
        }
        if method.reach() == Reach::Node && self.is_restricted() {
            return Err(ApiAuthError::Restricted);
        }
        Ok(())
    }

    /// Decides whether the key is for the channels of a namespace.
    ///
    /// # Errors
    /// [`ApiAuthError::Namespace`].
    pub fn check_namespace(&self, namespace: &str) -> Result<(), ApiAuthError> {
        let is_named = |globs: &[WildMatch]| globs.iter().any(|glob| glob.matches(namespace));
        if self.namespaces.as_deref().is_none_or(is_named) { Ok(()) } else { Err(ApiAuthError::Namespace) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_limited_to_its_scopes() {
        let expected = [
            (ApiMethod::Publish, Scope::Publish),
            (ApiMethod::Broadcast, Scope::Publish),
            (ApiMethod::Channels, Scope::Read),
            (ApiMethod::Info, Scope::Read),
            (ApiMethod::History, Scope::Read),
            (ApiMethod::HistoryRemove, Scope::Admin),
            (ApiMethod::Ticket, Scope::Admin),
            (ApiMethod::Why, Scope::Admin),
        ];
        for scope in Scope::ALL {
            let key = ApiPermissions::new("a", &[scope], None);
            for (method, required) in expected {
                assert_eq!(key.check_method(method).is_ok(), scope == required, "{scope:?} {method:?}");
            }
        }
        let all = ApiPermissions::all("a");
        assert!(ApiMethod::ALL.into_iter().all(|method| all.check_method(method).is_ok()));
        assert_eq!(all.check_namespace("any"), Ok(()));
    }

    #[test]
    fn a_key_is_limited_to_its_namespaces() {
        let key = ApiPermissions::new("a", &Scope::ALL, Some(&["chat*".to_owned(), "jobs".to_owned()]));
        for (namespace, is_permitted) in
            [("chat", true), ("chat-2", true), ("jobs", true), ("jobs2", false), ("achat", false)]
        {
            assert_eq!(key.check_namespace(namespace).is_ok(), is_permitted, "{namespace}");
        }
        assert_eq!(key.check_method(ApiMethod::Info), Err(ApiAuthError::Restricted));
        assert_eq!(
            ApiPermissions::new("a", &[], Some(&[])).check_namespace("a"),
            Err(ApiAuthError::Namespace)
        );
    }

    /// An independent implementation of globs, for comparison: `*` matches any text.
    fn names(globs: &[String], namespace: &str) -> bool {
        globs.iter().any(|glob| match glob.split_once('*') {
            None => glob == namespace,
            Some((start, end)) => {
                namespace.len() >= start.len() + end.len()
                    && namespace.starts_with(start)
                    && namespace.ends_with(end)
            }
        })
    }

    proptest! {
        #[test]
        fn a_key_never_does_what_its_scopes_and_namespaces_do_not_name(
            scopes in prop::sample::subsequence(Scope::ALL.to_vec(), 0..=3),
            globs in prop::option::of(prop::collection::vec("[ab]{0,2}\\*?[ab]{1,2}", 0..3)),
            method in prop::sample::select(ApiMethod::ALL.to_vec()),
            namespace in "[ab]{1,4}",
        ) {
            let key = ApiPermissions::new("a", &scopes, globs.as_deref());
            let by_scope = scopes.iter().any(|scope| scope.as_str() == method.scope().as_str());
            let by_namespace = globs.as_deref().is_none_or(|globs| names(globs, &namespace));
            let is_permitted = key.check_method(method).is_ok() && key.check_namespace(&namespace).is_ok();
            prop_assert!(!is_permitted || (by_scope && by_namespace));
            let by_reach = method.reach() == Reach::Channels || globs.is_none();
            prop_assert_eq!(is_permitted, by_scope && by_namespace && by_reach);
        }
    }
}
