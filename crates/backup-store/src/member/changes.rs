//! Changes of a cluster: its members, and its alarms.

use super::api;
use super::api::cluster_client::ClusterClient;
use super::api::maintenance_client::MaintenanceClient;
use super::{Member, MemberError, Peer, peer};
use std::time::Duration;
use tonic::Code;

/// A change needs the agreement of a quorum.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Member {
    /// All members of the cluster, as a quorum knows them.
    ///
    /// # Errors
    /// There is no quorum, or the member did not answer.
    pub async fn agreed_members(&self) -> Result<Vec<Peer>, MemberError> {
        let request = self.request(
            api::MemberListRequest { linearizable: true },
            CHANGE_TIMEOUT,
        );
        let mut client = ClusterClient::new(self.channel.clone());
        let answer = self.answered(
            "the member list request",
            CHANGE_TIMEOUT,
            client.member_list(request),
        );
        let response = answer
            .await?
            .map_err(|status| self.refused(status))?
            .into_inner();
        Ok(response.members.into_iter().map(peer).collect())
    }

    /// Adds a member without a vote to the cluster, and gives its id.
    ///
    /// # Errors
    /// The cluster refused it, or the member did not answer.
    pub async fn add_learner(&self, peer_urls: Vec<String>) -> Result<u64, MemberError> {
        let request = api::MemberAddRequest {
            peer_ur_ls: peer_urls,
            is_learner: true,
        };
        let request = self.request(request, CHANGE_TIMEOUT);
        let mut client = ClusterClient::new(self.channel.clone());
        let answer = self.answered(
            "the request to add a member",
            CHANGE_TIMEOUT,
            client.member_add(request),
        );
        let response = answer
            .await?
            .map_err(|status| self.refused(status))?
            .into_inner();
        Ok(response.member.unwrap_or_default().id)
    }

    /// Removes a member from the cluster, for ever.
    ///
    /// # Errors
    /// The cluster refused it, or the member did not answer.
    pub async fn remove_member(&self, id: u64) -> Result<(), MemberError> {
        let request = self.request(api::MemberRemoveRequest { id }, CHANGE_TIMEOUT);
        let mut client = ClusterClient::new(self.channel.clone());
        let answer = self.answered(
            "the request to remove a member",
            CHANGE_TIMEOUT,
            client.member_remove(request),
        );
        answer.await?.map_err(|status| self.refused(status))?;
        Ok(())
    }

    /// Gives a learner its vote. `Ok(false)` while it does not have all data yet.
    ///
    /// # Errors
    /// The cluster refused it for another reason, or the member did not answer.
    pub async fn promote(&self, id: u64) -> Result<bool, MemberError> {
        let request = self.request(api::MemberPromoteRequest { id }, CHANGE_TIMEOUT);
        let mut client = ClusterClient::new(self.channel.clone());
        let answer = self.answered(
            "the request to promote a member",
            CHANGE_TIMEOUT,
            client.member_promote(request),
        );
        match answer.await? {
            Ok(_) => Ok(true),
            Err(status)
                if status.code() == Code::FailedPrecondition
                    && status.message().contains("in sync") =>
            {
                Ok(false)
            }
            Err(status) => Err(self.refused(status)),
        }
    }

    /// Removes the alarms of members that are not in the cluster any more, and gives their number. Nobody else removes them, and one for
    /// a full database stops all writes.
    ///
    /// # Errors
    /// The member did not answer.
    pub async fn remove_alarms_of_others(&self, members: &[u64]) -> Result<usize, MemberError> {
        let alarm = |action: api::AlarmAction, member_id, alarm| {
            let request = api::AlarmRequest {
                action: action.into(),
                member_id,
                alarm,
            };
            let request = self.request(request, CHANGE_TIMEOUT);
            let mut client = MaintenanceClient::new(self.channel.clone());
            async move {
                let answer = self.answered(
                    "the request about alarms",
                    CHANGE_TIMEOUT,
                    client.alarm(request),
                );
                answer.await?.map_err(|status| self.refused(status))
            }
        };
        let alarms = alarm(api::AlarmAction::Get, 0, 0)
            .await?
            .into_inner()
            .alarms;
        let mut removed = 0;
        for other in alarms
            .iter()
            .filter(|alarm| !members.contains(&alarm.member_id))
        {
            alarm(api::AlarmAction::Deactivate, other.member_id, other.alarm).await?;
            removed += 1;
        }
        Ok(removed)
    }
}
