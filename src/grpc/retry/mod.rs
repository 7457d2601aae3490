//! When a call is sent more than once although a server may have processed it: gRFC A6.
//!
//! * [`policy`] is what users write: [`RetryPolicy`] and [`HedgingPolicy`].
//! * [`methods`] finds the policy of a method.
//! * [`throttle`] is the token bucket that the calls of a target share, and [`budget`] the memory that the calls of a pool may
//!   keep for further attempts.
//! * [`decision`] says what follows on a failed attempt: pure functions of a policy, an outcome and the bucket's answer.
//! * [`service_config`] reads all of this from gRPC's JSON (feature `service-config`).
//!
//! Nothing here sends anything: `call` asks, and acts.

pub(in crate::grpc) mod budget;
pub(in crate::grpc) mod decision;
pub(in crate::grpc) mod methods;
pub(in crate::grpc) mod policy;
#[cfg(feature = "service-config")]
pub(in crate::grpc) mod service_config;
pub(in crate::grpc) mod throttle;

use self::budget::Budget;
use self::methods::{MethodConfig, Methods};
use self::policy::{CallPolicy, MAX_ATTEMPTS};
use self::throttle::{Bucket, Throttling};
use super::error::Error;
use crate::primitive::Arc;

/// What a builder collects.
#[derive(Clone, Debug)]
pub(crate) struct RetryOptions {
    pub(crate) methods: Methods,
    pub(crate) throttling: Option<Throttling>,
    /// No policy allows more attempts than this, the first one included.
    pub(crate) max_attempts: u32,
    /// Bytes that one call keeps.
    pub(crate) call_buffer: usize,
    /// Bytes that all calls keep together.
    pub(crate) pool_buffer: usize,
}

impl Default for RetryOptions {
    fn default() -> Self {
        RetryOptions {
            methods: Methods::default(),
            throttling: None,
            max_attempts: MAX_ATTEMPTS,
            call_buffer: 256 << 10,
            pool_buffer: 16 << 20,
        }
    }
}

impl RetryOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.methods.check()?;
        if self.max_attempts < 1 {
            return Err(Error::config("max_call_attempts", "it is zero"));
        }
        self.throttling.as_ref().map_or(Ok(()), Throttling::check)
    }
}

/// What the calls of one target share.
#[derive(Debug)]
pub(in crate::grpc) struct Retries {
    methods: Methods,
    pub(in crate::grpc) bucket: Option<Arc<Bucket>>,
    max_attempts: u32,
    pub(in crate::grpc) call_buffer: usize,
    pub(in crate::grpc) budget: Arc<Budget>,
}

impl Retries {
    /// For another target, with a bucket of its own. All targets of a pool share its budget.
    pub(in crate::grpc) fn new(options: &RetryOptions, budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Retries {
            methods: options.methods.clone(),
            bucket: options.throttling.as_ref().map(|throttling| Arc::new(Bucket::new(throttling))),
            max_attempts: options.max_attempts,
            call_buffer: options.call_buffer,
            budget: Arc::clone(budget),
        })
    }

    /// What is configured for the method with this path.
    pub(in crate::grpc) fn method(&self, path: &str) -> Option<&MethodConfig> {
        self.methods.find(path)
    }

    /// The policy of a request, its own or else its method's, and how many attempts it allows. `None` if it is sent once.
    pub(in crate::grpc) fn policy(
        &self,
        own: Option<CallPolicy>,
        method: Option<&MethodConfig>,
    ) -> Result<Option<(Arc<CallPolicy>, u32)>, Error> {
        let policy = match own {
            None => method.and_then(|method| method.policy.clone()),
            Some(own) => {
                own.check()?;
                Some(Arc::new(own))
            }
        };
        let counted = policy.map(|policy| {
            let most = policy.attempts(self.max_attempts);
            (policy, most)
        });
        Ok(counted.filter(|(_, most)| *most > 1))
    }
}
