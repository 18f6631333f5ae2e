//! The Lease itself: reading and writing it, and doing the work while it is held.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use weir_control::clock::Clock;

use crate::error::{explain, is_conflict};
use crate::leader::{Candidate, Record, Timing, Write};

/// Takes part in an election, and works while it leads.
#[derive(Debug)]
pub struct Election {
    leases: Api<Lease>,
    name: String,
    candidate: Candidate,
    timing: Timing,
    clock: Clock,
    wall_clock: fn() -> Timestamp,
    is_leader: watch::Sender<bool>,
}

/// Why leading ended.
enum End {
    Asked,
    Lost,
    Failed(anyhow::Error),
}

impl Election {
    /// For the Lease `name`; `wall_clock` is for people who look at it, and decides nothing.
    /// `is_leader` is told.
    #[must_use]
    pub fn new(
        leases: Api<Lease>,
        name: String,
        identity: String,
        timing: Timing,
        wall_clock: fn() -> Timestamp,
        is_leader: watch::Sender<bool>,
    ) -> Self {
        let candidate = Candidate::new(identity, timing);
        Self { leases, name, candidate, timing, clock: Clock::start(), wall_clock, is_leader }
    }

    /// Until `stop` is done, works whenever it leads. The work is dropped before anybody else can
    /// lead, wherever it is; it starts anew with the next term. At the end the Lease is released.
    pub async fn run<F>(mut self, mut work: impl FnMut() -> F, stop: impl Future<Output = ()>)
    where
        F: Future<Output = anyhow::Error>,
    {
        let mut stop = pin!(stop);
        loop {
            if !self.follow(stop.as_mut()).await {
                return;
            }
            info!("leads, as {}", self.candidate.identity());
            self.is_leader.send_replace(true);
            let end = self.hold(work(), stop.as_mut()).await;
            self.is_leader.send_replace(false);
            match end {
                End::Asked => {
                    info!("stops leading");
                    return self.release().await;
                }
                End::Lost => warn!("leads no longer: the Lease {} is not renewed", self.name),
                End::Failed(error) => {
                    warn!("stops leading: {error:#}");
                    self.release().await;
                    tokio::time::sleep(self.timing.retry).await;
                }
            }
        }
    }

    /// Says whether it leads now, rather than having been stopped.
    async fn follow(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut last_trouble = String::new();
        loop {
            let timing = self.timing;
            tokio::select! {
                biased;
                () = stop.as_mut() => return false,
                result = tokio::time::timeout(timing.renew, self.attempt()) => {
                    let trouble = match result {
                        Ok(Ok(())) => String::new(),
                        Ok(Err(error)) => explain(&error),
                        Err(_) => "no answer from the API server".into(),
                    };
                    // Said once, however long it lasts.
                    if !trouble.is_empty() && trouble != last_trouble {
                        warn!("Lease {}: {trouble}", self.name);
                    }
                    last_trouble = trouble;
                }
            }
            if self.candidate.is_leader(self.clock.elapsed()) {
                return true;
            }
            tokio::select! {
                biased;
                () = stop.as_mut() => return false,
                () = tokio::time::sleep(timing.retry) => {}
            }
        }
    }

    /// Works and renews. The work goes on only while the Lease is certain to be held.
    async fn hold(
        &mut self,
        work: impl Future<Output = anyhow::Error>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let mut work = pin!(work);
        loop {
            let now = self.clock.elapsed();
            let Some(left) = self.candidate.deadline().and_then(|it| it.checked_sub(now)) else {
                return End::Lost;
            };
            let retry = self.timing.retry;
            let renew = async {
                tokio::time::sleep(retry).await;
                if let Err(error) = self.attempt().await {
                    debug!("Lease {}: {}", self.name, explain(&error));
                }
            };
            tokio::select! {
                biased;
                () = stop.as_mut() => return End::Asked,
                () = tokio::time::sleep(left) => return End::Lost,
                () = renew => {}
                error = work.as_mut() => return End::Failed(error),
            }
        }
    }

    /// Reads the Lease and writes it where it may.
    async fn attempt(&mut self) -> Result<(), kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let record = lease.as_ref().map(read_record);
        let Some(write) = self.candidate.observe(record, self.clock.elapsed()) else {
            return Ok(());
        };
        let sent_at = self.clock.elapsed();
        match self.write(lease, &write).await {
            Ok(()) => self.candidate.note_written(sent_at),
            // Somebody else was faster, which the next look will show.
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn release(&mut self) {
        let release = async {
            let lease = self.leases.get_opt(&self.name).await?;
            let record = lease.as_ref().map(read_record);
            match self.candidate.release(record) {
                Some(write) => self.write(lease, &write).await,
                None => Ok(()),
            }
        };
        match tokio::time::timeout(Duration::from_secs(2), release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("Lease {}: not released: {}", self.name, explain(&error)),
            Err(_) => warn!("Lease {}: not released: no answer from the API server", self.name),
        }
    }

    async fn write(&self, lease: Option<Lease>, write: &Write) -> Result<(), kube::Error> {
        let now = MicroTime((self.wall_clock)());
        let exists = lease.is_some();
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        lease.metadata.resource_version.clone_from(&write.version);
        let old = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(write.holder.clone()),
            lease_duration_seconds: Some(whole_seconds(self.timing.lease)),
            lease_transitions: Some(write.transitions),
            acquire_time: if write.is_acquisition { Some(now.clone()) } else { old.acquire_time },
            renew_time: Some(now),
            ..old
        });
        let params = PostParams::default();
        match exists {
            true => self.leases.replace(&self.name, &params, &lease).await?,
            false => self.leases.create(&params, &lease).await?,
        };
        Ok(())
    }
}

fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)
}

fn read_record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|it| u64::try_from(it).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or(0)),
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
