#pragma once

// The metrics of coordinators and gateways. See names.h.

#include "core/metrics/definition.h"

namespace octavo::metric {

// ---- Coordinator: cluster
inline constexpr MetricDef kWorkers{
    "octavo_workers", "Workers known, by state.", kGauge, kCoordinator, {"state"}};
inline constexpr MetricDef kWorkersLost{
    "octavo_workers_lost_total",
    "Workers whose stream closed or whose beat stopped, by cause.",
    kCounter,
    kCoordinator,
    {"cause"}};
inline constexpr MetricDef kHeartbeatAge{
    "octavo_heartbeat_age_seconds",
    "Time since the last beat of the attached worker that was silent for longest.", kGauge,
    kCoordinator};
inline constexpr MetricDef kRecoveries{
    "octavo_coordinator_recoveries_total",
    "Times that a coordinator went on with this journal after the first one, ever.", kCounter,
    kCoordinator};
inline constexpr MetricDef kRecoverySeconds{
    "octavo_coordinator_recovery_seconds",
    "Time that this coordinator took to take up what its journal holds.", kGauge, kCoordinator};
inline constexpr MetricDef kStoreSeconds{"octavo_store_operation_seconds",
                                         "Time of one durable batch of the coordinator's journal.",
                                         kHistogram,
                                         kCoordinator,
                                         {},
                                         kUnitBuckets};

// ---- Coordinator: quantization jobs
inline constexpr MetricDef kJobs{
    "octavo_jobs", "Jobs known, by state.", kGauge, kCoordinator, {"state"}};
inline constexpr MetricDef kJobsFinished{"octavo_jobs_finished_total",
                                         "Jobs that ended, by final state.",
                                         kCounter,
                                         kCoordinator,
                                         {"state"}};
inline constexpr MetricDef kUnits{
    "octavo_units", "Units of the running jobs, by state.", kGauge, kCoordinator, {"state"}};
inline constexpr MetricDef kReceipts{"octavo_receipts_total",
                                     "Receipts from workers, by outcome.",
                                     kCounter,
                                     kCoordinator,
                                     {"outcome"}};
inline constexpr MetricDef kRetries{"octavo_unit_retries_total",
                                    "Units that were leased again, by cause.",
                                    kCounter,
                                    kCoordinator,
                                    {"cause"}};
inline constexpr MetricDef kLeasesExpired{"octavo_lease_expirations_total",
                                          "Leases that ended because their worker was lost.",
                                          kCounter, kCoordinator};
inline constexpr MetricDef kDigestDisagreements{
    "octavo_digest_disagreements_total",
    "Units that two executions answered with different digests.", kCounter, kCoordinator};
inline constexpr MetricDef kJobBytes{"octavo_job_bytes_total",
                                     "Bytes that finished units moved, by direction.",
                                     kCounter,
                                     kCoordinator,
                                     {"direction"}};
inline constexpr MetricDef kJobRate{"octavo_job_bytes_per_second",
                                    "Source bytes per second of the running jobs, last seconds.",
                                    kGauge, kCoordinator};
inline constexpr MetricDef kJobProgress{"octavo_job_progress_ratio",
                                        "Done units over all units of the running jobs.", kGauge,
                                        kCoordinator};
inline constexpr MetricDef kPublishSeconds{"octavo_publish_seconds",
                                           "Time to finish and publish an output folder.",
                                           kHistogram,
                                           kCoordinator,
                                           {},
                                           kRequestBuckets};

// ---- Coordinator: serving groups and gateway
inline constexpr MetricDef kModels{
    "octavo_models", "Models known, by state.", kGauge, kCoordinator, {"state"}};
inline constexpr MetricDef kGroupReforms{
    "octavo_group_reforms_total",
    "Serving groups that broke and were formed again, by cause.",
    kCounter,
    kCoordinator,
    {"cause"}};
inline constexpr MetricDef kModelInfo{"octavo_model_info",
                                      "1 while a group of the model is formed, 0 after it is gone.",
                                      kGauge,
                                      kCoordinator,
                                      {"model", "family", "format"}};
inline constexpr MetricDef kRequests{"octavo_requests_total",
                                     "Requests that ended, by method and outcome.",
                                     kCounter,
                                     kCoordinator,
                                     {"method", "outcome"}};
inline constexpr MetricDef kRequestsRunning{
    "octavo_requests_in_flight", "Requests being answered by the gateway.", kGauge, kCoordinator};
inline constexpr MetricDef kRequestsAwaitGroup{
    "octavo_requests_awaiting_group",
    "Requests in flight whose group was lost, waiting for the next one.", kGauge, kCoordinator};
inline constexpr MetricDef kRequestSeconds{"octavo_request_duration_seconds",
                                           "Time from arrival to the last byte of a request.",
                                           kHistogram,
                                           kCoordinator,
                                           {"method"},
                                           kRequestBuckets};
inline constexpr MetricDef kTimeToFirstToken{
    "octavo_time_to_first_token_seconds",
    "Time from a request's arrival at the gateway to its first token.",
    kHistogram,
    kCoordinator,
    {},
    kWaitBuckets};
inline constexpr MetricDef kInterTokenLatency{"octavo_inter_token_latency_seconds",
                                              "Time between two tokens of one request.",
                                              kHistogram,
                                              kCoordinator,
                                              {},
                                              kStepBuckets};
inline constexpr MetricDef kTimePerOutputToken{
    "octavo_time_per_output_token_seconds",
    "Mean time between the tokens of one request, of those with two or more.",
    kHistogram,
    kCoordinator,
    {},
    kStepBuckets};
inline constexpr MetricDef kPromptTokens{
    "octavo_prompt_tokens_total", "Prompt tokens of requests taken.", kCounter, kCoordinator};
inline constexpr MetricDef kGenerationTokens{"octavo_generation_tokens_total",
                                             "Tokens sent to clients.", kCounter, kCoordinator};
inline constexpr MetricDef kDiscardedTokens{
    "octavo_discarded_tokens_total",
    "Tokens generated for requests that did not come to their end, by reason (cancel, disconnect, "
    "deadline).",
    kCounter,
    kCoordinator,
    {"reason"}};
inline constexpr MetricDef kStreamsResumed{
    "octavo_streams_resumed_total",
    "Streams that went on after their group or their gateway was lost.", kCounter, kCoordinator};
inline constexpr MetricDef kRequestPromptTokens{"octavo_request_prompt_tokens",
                                                "Prompt tokens of one request.",
                                                kHistogram,
                                                kCoordinator,
                                                {},
                                                kTokenBuckets};
inline constexpr MetricDef kRequestGenerationTokens{"octavo_request_generation_tokens",
                                                    "Generated tokens of one request.",
                                                    kHistogram,
                                                    kCoordinator,
                                                    {},
                                                    kTokenBuckets};

}  // namespace octavo::metric
