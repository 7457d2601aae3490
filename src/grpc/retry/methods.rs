//! What is configured for methods, by pattern.

use std::collections::HashMap;
use std::time::Duration;

use super::policy::CallPolicy;
use crate::grpc::error::Error;
use crate::primitive::Arc;

/// What holds for the calls of a method.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::grpc) struct MethodConfig {
    pub(in crate::grpc) policy: Option<Arc<CallPolicy>>,
    pub(in crate::grpc) wait_for_ready: Option<bool>,
    pub(in crate::grpc) timeout: Option<Duration>,
}

/// By pattern: `package.Service/Method`, `package.Service` for the methods of a service that have none of their own, and `""` for
/// all others. Shared by clones until one is changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Methods(Arc<HashMap<Box<str>, MethodConfig>>);

impl Methods {
    pub(crate) fn set_policy(&mut self, pattern: String, policy: CallPolicy) {
        self.entry(pattern).policy = Some(Arc::new(policy));
    }

    pub(super) fn entry(&mut self, pattern: String) -> &mut MethodConfig {
        let pattern = pattern.strip_prefix('/').map_or(pattern.as_str(), |pattern| pattern);
        Arc::make_mut(&mut self.0).entry(pattern.into()).or_default()
    }

    /// The most specific entry for a request's path, `/package.Service/Method`.
    pub(super) fn find(&self, path: &str) -> Option<&MethodConfig> {
        if self.0.is_empty() {
            return None;
        }
        let method = path.strip_prefix('/').unwrap_or(path);
        let service = method.split_once('/').map_or(method, |(service, _)| service);
        [method, service, ""].into_iter().find_map(|pattern| self.0.get(pattern))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for (pattern, config) in &*self.0 {
            let parts: Vec<_> = pattern.split('/').collect();
            let is_pattern =
                pattern.is_empty() || parts.len() <= 2 && parts.iter().all(|part| !part.is_empty());
            if !is_pattern {
                let what = format!("{pattern:?} is neither `package.Service/Method` nor `package.Service`");
                return Err(Error::config("retry", what));
            }
            config.policy.as_ref().map_or(Ok(()), |policy| policy.check())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::super::policy::{HedgingPolicy, RetryPolicy};
    use super::*;

    #[test]
    fn a_method_has_the_policy_of_the_most_specific_pattern() {
        let attempts = |count| CallPolicy::from(HedgingPolicy::new(count));
        let mut methods = Methods::default();
        assert_eq!(methods.find("/a.B/C"), None);
        methods.set_policy("a.B/C".into(), attempts(2));
        methods.set_policy("/a.B/D".into(), attempts(3));
        methods.set_policy("a.B".into(), attempts(4));
        let found = |methods: &Methods, path: &str| {
            methods.find(path)?.policy.as_ref().map(|policy| policy.attempts(99))
        };
        for (path, count) in [
            ("/a.B/C", Some(2)),
            ("/a.B/D", Some(3)),
            ("/a.B/E", Some(4)),
            ("/a.Bb/C", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(found(&methods, path), count, "{path}");
        }
        methods.set_policy(String::new(), attempts(5));
        assert_eq!(found(&methods, "/x.Y/Z"), Some(5));
        assert_eq!(found(&methods, "/a.B/C"), Some(2));
        assert!(methods.check().is_ok());
    }

    #[test]
    fn patterns_that_match_nothing_and_bad_policies_are_errors() {
        for pattern in ["a/b/c", "a/", "//b", "a//b"] {
            let mut methods = Methods::default();
            methods.set_policy(pattern.into(), CallPolicy::Once);
            assert!(methods.check().is_err(), "{pattern:?}");
        }
        let mut methods = Methods::default();
        methods.set_policy("a.B".into(), RetryPolicy::new([Code::Ok]).into());
        assert!(methods.check().is_err());
    }
}
