//! Begins faults, ends them, and heals everything.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_bridge_tests::STREAM;
use rustix::process::Signal;
use testbed::eventually;

use crate::place::Place;
use crate::schedule::{Fault, Link, NODES};

/// How long a bridge may take to stop in good order; its own deadline is ten seconds.
const BRIDGE_STOP_LIMIT: Duration = Duration::from_secs(30);
/// What a bridge ends with that could not store everything in time, or cannot go on for now.
pub(crate) const UNAVAILABLE: i32 = 69;

impl Place {
    /// Begins a fault.
    pub(crate) async fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillBridge(index) => self.bridge(index)?.kill(),
            Fault::FreezeBridge(index) => self.bridge(index)?.pause(),
            Fault::StopBridge(index) => self.stop_bridge(index).await,
            Fault::KillSource => self.source.kill().await,
            Fault::StopSource => self.source.stop().await,
            Fault::FreezeSource => self.source.pause(),
            Fault::SwitchSource { killed } => self.switch_source(killed).await,
            Fault::KillReplica => self.replica.kill().await,
            Fault::KillNode(index) => self.cluster.node(index)?.kill().await,
            Fault::StopNode(index) => self.cluster.node(index)?.stop().await,
            Fault::FreezeNode(index) => self.cluster.node(index)?.pause(),
            Fault::IsolateNode(index) => {
                self.cluster.links().isolate(index);
                Ok(())
            }
            Fault::KillMajority { survivor } => {
                for index in (0..NODES).filter(|index| *index != survivor) {
                    self.cluster.node(index)?.kill().await?;
                }
                Ok(())
            }
            Fault::StepDown => {
                // There may be no leader just now, or it may not answer; then nobody steps down.
                let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}");
                let client = self.jetstream.client();
                let asking = client.request(subject, "".into());
                drop(tokio::time::timeout(Duration::from_secs(1), asking).await);
                Ok(())
            }
            Fault::Cut(link) => {
                self.proxies(link).iter().for_each(testbed::FaultyProxy::cut);
                Ok(())
            }
            Fault::Truncate(link, direction, bytes) => {
                self.proxies(link).iter().for_each(|proxy| proxy.cut_after(direction, bytes));
                Ok(())
            }
            Fault::Stall(link) => {
                self.proxies(link).iter().for_each(testbed::FaultyProxy::stall);
                Ok(())
            }
            Fault::Down(link) => {
                for proxy in self.proxies(link) {
                    proxy.down().await?;
                }
                Ok(())
            }
            Fault::Throttle(link, direction, bytes) => {
                self.proxies(link).iter().for_each(|proxy| proxy.throttle(direction, Some(bytes)));
                Ok(())
            }
            Fault::Delay(link, direction, millis) => {
                let delay = Duration::from_millis(millis);
                self.proxies(link).iter().for_each(|proxy| proxy.delay(direction, delay));
                Ok(())
            }
        }
    }

    /// Ends a fault.
    pub(crate) async fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillBridge(index) | Fault::StopBridge(index) => self.bridge(index)?.launch(),
            Fault::FreezeBridge(index) => self.bridge(index)?.resume(),
            Fault::KillSource | Fault::StopSource => self.source.start().await,
            Fault::FreezeSource => self.source.resume(),
            Fault::SwitchSource { .. } | Fault::KillReplica => {
                self.replica.start().await?;
                self.replica.follow(&self.source).await
            }
            Fault::KillNode(index) | Fault::StopNode(index) => self.cluster.node(index)?.launch(),
            Fault::FreezeNode(index) => self.cluster.node(index)?.resume(),
            Fault::IsolateNode(_) => self.cluster.links().heal().await,
            Fault::KillMajority { survivor } => {
                for index in (0..NODES).filter(|index| *index != survivor) {
                    self.cluster.node(index)?.launch()?;
                }
                Ok(())
            }
            Fault::StepDown => Ok(()),
            Fault::Cut(link)
            | Fault::Truncate(link, ..)
            | Fault::Stall(link)
            | Fault::Down(link)
            | Fault::Throttle(link, ..)
            | Fault::Delay(link, ..) => self.pass(link).await,
        }
    }

    /// The replica takes the primary's place, once it has all that was committed; producers go with it.
    async fn switch_source(&mut self, killed: bool) -> Result<()> {
        self.writable.send_replace(None);
        if killed {
            self.source.kill().await?;
            // What the bridges may have read from it must not be lost with it.
            self.source.start().await?;
        }
        self.source.exec("SET GLOBAL super_read_only = ON").await?;
        self.replica.await_caught_up(&self.source).await?;
        if killed {
            self.source.kill().await?;
        } else {
            self.source.stop().await?;
        }
        self.replica.promote().await?;
        std::mem::swap(&mut self.source, &mut self.replica);
        self.writable.send_replace(Some(self.source.root_opts()));
        Ok(())
    }

    async fn pass(&self, link: Link) -> Result<()> {
        for proxy in self.proxies(link) {
            proxy.pass().await?;
        }
        Ok(())
    }

    /// Stops a bridge as a supervisor does. Under faults it may fail to store everything in time, and says so.
    async fn stop_bridge(&mut self, index: usize) -> Result<()> {
        let bridge = self.bridge(index)?;
        bridge.signal(Signal::TERM)?;
        let ending = eventually("the bridge to stop", BRIDGE_STOP_LIMIT, async || bridge.exited());
        let status = ending.await?;
        // One that has only just been started may not even be able yet to stop in good order.
        let started = status.signal() == Some(Signal::TERM.as_raw());
        ensure!(
            started || matches!(status.code(), Some(0 | UNAVAILABLE)),
            "bridge {index} ended with {status}"
        );
        Ok(())
    }
}
