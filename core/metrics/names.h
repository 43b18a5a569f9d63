#pragma once

// Every metric of Octavo: name, help, type, labels. The only place where a metric is named.
//
// Rules: prefix octavo_, base units (seconds, bytes, ratios from 0 to 1), counters end in _total,
// labels take values from small closed sets (never ids, paths or free text). To add one: define it
// here and list it in kAllMetrics.

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace octavo {

enum class MetricType { kCounter, kGauge, kHistogram };

// The programs that show a metric from their start on (at 0), before anything happened.
enum class MetricHome { kCoordinator, kWorker, kBoth };

struct MetricDef {
  std::string_view name;
  std::string_view help;
  MetricType type = MetricType::kCounter;
  MetricHome home = MetricHome::kBoth;
  std::array<std::string_view, 2> labels = {};  // unused ones empty
  std::span<const double> buckets = {};         // upper bounds, ascending; histograms only
};

namespace metric {

// Upper bounds in seconds. Steps and inter-token gaps; queueing and first tokens; whole requests;
// units of work.
inline constexpr double kStepBuckets[] = {0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008,
                                          0.01,   0.015, 0.02,   0.03,  0.04,  0.06,  0.08,  0.1,
                                          0.15,   0.2,   0.3,    0.5,   1,     2.5};
inline constexpr double kWaitBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                          1,     2.5,    5,     10,   30,    60,   120, 300};
inline constexpr double kRequestBuckets[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,
                                             5,    10,    30,   60,  120,  300, 600, 1800};
inline constexpr double kUnitBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                          0.25,  0.5,    1,     2.5,  5,     10,   30};
inline constexpr double kTokenBuckets[] = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};

using enum MetricType;
using enum MetricHome;

// ---- Both programs
inline constexpr MetricDef kBuildInfo{"octavo_build_info",
                                      "Always 1; version and program are labels.",
                                      kGauge,
                                      kBoth,
                                      {"version", "program"}};
inline constexpr MetricDef kRss{"octavo_resident_memory_bytes", "Resident memory of this process.",
                                kGauge, kBoth};
inline constexpr MetricDef kRssPeak{"octavo_resident_memory_peak_bytes",
                                    "Largest resident memory of this process so far (VmHWM).",
                                    kGauge, kBoth};

// ---- Coordinator: cluster
inline constexpr MetricDef kWorkers{
    "octavo_workers", "Workers known, by state.", kGauge, kCoordinator, {"state"}};
inline constexpr MetricDef kWorkersLost{
    "octavo_workers_lost_total",
    "Workers whose stream closed or whose beat stopped, by cause.",
    kCounter,
    kCoordinator,
    {"cause"}};
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
inline constexpr MetricDef kRequests{"octavo_requests_total",
                                     "Requests that ended, by method and outcome.",
                                     kCounter,
                                     kCoordinator,
                                     {"method", "outcome"}};
inline constexpr MetricDef kRequestsRunning{
    "octavo_requests_in_flight", "Requests being answered by the gateway.", kGauge, kCoordinator};
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

// ---- Worker: units
inline constexpr MetricDef kWorkerUnits{"octavo_worker_units_total",
                                        "Units this worker ran, by outcome.",
                                        kCounter,
                                        kWorker,
                                        {"outcome"}};
inline constexpr MetricDef kWorkerUnitSeconds{"octavo_worker_unit_seconds",
                                              "Time of one unit in this worker.",
                                              kHistogram,
                                              kWorker,
                                              {},
                                              kUnitBuckets};
inline constexpr MetricDef kWorkerBytes{"octavo_worker_bytes_total",
                                        "Bytes this worker read and wrote for units.",
                                        kCounter,
                                        kWorker,
                                        {"direction"}};
inline constexpr MetricDef kWorkerStageSeconds{"octavo_worker_stage_seconds_total",
                                               "Thread seconds spent on units, by part.",
                                               kCounter,
                                               kWorker,
                                               {"part"}};
inline constexpr MetricDef kWorkerReconnects{"octavo_worker_reconnects_total",
                                             "Times the stream to the coordinator was opened.",
                                             kCounter, kWorker};
inline constexpr MetricDef kWorkerBufferBytes{
    "octavo_worker_buffer_bytes", "Buffer bytes of the units in flight.", kGauge, kWorker};

// ---- Worker: serving
inline constexpr MetricDef kEngineRequests{"octavo_engine_requests_total",
                                           "Requests the engine ended, by outcome.",
                                           kCounter,
                                           kWorker,
                                           {"outcome"}};
inline constexpr MetricDef kEngineRunning{"octavo_engine_requests_running",
                                          "Sequences the engine is computing, by model.",
                                          kGauge,
                                          kWorker,
                                          {"model"}};
inline constexpr MetricDef kEngineWaiting{"octavo_engine_requests_waiting",
                                          "Requests in the engine's queue, by model.",
                                          kGauge,
                                          kWorker,
                                          {"model"}};
inline constexpr MetricDef kEngineRejected{"octavo_engine_requests_rejected_total",
                                           "Requests the engine did not admit, by reason.",
                                           kCounter,
                                           kWorker,
                                           {"reason"}};
inline constexpr MetricDef kEngineQueueSeconds{"octavo_engine_queue_seconds",
                                               "Time a request waited before its first step.",
                                               kHistogram,
                                               kWorker,
                                               {},
                                               kWaitBuckets};
inline constexpr MetricDef kEngineSteps{"octavo_engine_steps_total",
                                        "Forward steps of this rank, by kind (decode: one token "
                                        "of every sequence).",
                                        kCounter,
                                        kWorker,
                                        {"kind"}};
inline constexpr MetricDef kEngineStepSeconds{"octavo_engine_step_seconds",
                                              "Time of one forward step of this rank.",
                                              kHistogram,
                                              kWorker,
                                              {"kind"},
                                              kStepBuckets};
inline constexpr MetricDef kEngineTokens{"octavo_engine_tokens_total",
                                         "Tokens that went through forward steps, by kind.",
                                         kCounter,
                                         kWorker,
                                         {"kind"}};
inline constexpr MetricDef kEngineStepTokens{"octavo_engine_step_tokens",
                                             "Tokens of one forward step, of all its sequences.",
                                             kHistogram,
                                             kWorker,
                                             {},
                                             kTokenBuckets};
inline constexpr MetricDef kEngineStepSequences{"octavo_engine_step_sequences",
                                                "Sequences that had a part in a forward step.",
                                                kHistogram,
                                                kWorker,
                                                {},
                                                kTokenBuckets};
inline constexpr MetricDef kEnginePreemptions{
    "octavo_engine_preemptions_total",
    "Sequences that gave their key-value blocks up to earlier ones, to be computed again.",
    kCounter, kWorker};
inline constexpr MetricDef kPrefixTokens{
    "octavo_prefix_cache_tokens_total",
    "Prompt tokens of sequences that looked for what others left in the cache.", kCounter, kWorker};
inline constexpr MetricDef kPrefixTokensFound{
    "octavo_prefix_cache_hit_tokens_total",
    "Of these, the tokens whose keys and values were there and not computed again.", kCounter,
    kWorker};
inline constexpr MetricDef kKvUsage{"octavo_kv_cache_usage_ratio",
                                    "Used key-value blocks over all blocks of this rank, by model.",
                                    kGauge,
                                    kWorker,
                                    {"model"}};
inline constexpr MetricDef kKvBlocks{
    "octavo_kv_cache_blocks",
    "Key-value blocks of this rank, by model and state (used, free, cached).",
    kGauge,
    kWorker,
    {"model", "state"}};
inline constexpr MetricDef kKvBytes{"octavo_kv_cache_bytes",
                                    "Bytes that hold this rank's keys and values, by model and by "
                                    "how they are stored (bf16, fp8).",
                                    kGauge,
                                    kWorker,
                                    {"model", "dtype"}};
inline constexpr MetricDef kGroupEpoch{"octavo_group_epoch",
                                       "Latest epoch of the groups of a model that this worker is "
                                       "in; 0: none.",
                                       kGauge,
                                       kWorker,
                                       {"model"}};
inline constexpr MetricDef kWeightBytes{"octavo_weight_bytes",
                                        "Bytes of weights this rank holds, by model.",
                                        kGauge,
                                        kWorker,
                                        {"model"}};

inline constexpr const MetricDef* kAllMetrics[] = {
    &kBuildInfo,
    &kRss,
    &kRssPeak,
    &kWorkers,
    &kWorkersLost,
    &kStoreSeconds,
    &kJobs,
    &kJobsFinished,
    &kUnits,
    &kReceipts,
    &kRetries,
    &kLeasesExpired,
    &kDigestDisagreements,
    &kJobBytes,
    &kJobRate,
    &kJobProgress,
    &kPublishSeconds,
    &kModels,
    &kGroupReforms,
    &kRequests,
    &kRequestsRunning,
    &kRequestSeconds,
    &kTimeToFirstToken,
    &kInterTokenLatency,
    &kTimePerOutputToken,
    &kPromptTokens,
    &kGenerationTokens,
    &kStreamsResumed,
    &kRequestPromptTokens,
    &kRequestGenerationTokens,
    &kWorkerUnits,
    &kWorkerUnitSeconds,
    &kWorkerBytes,
    &kWorkerStageSeconds,
    &kWorkerReconnects,
    &kWorkerBufferBytes,
    &kEngineRequests,
    &kEngineRunning,
    &kEngineWaiting,
    &kEngineRejected,
    &kEngineQueueSeconds,
    &kEngineSteps,
    &kEngineStepSeconds,
    &kEngineTokens,
    &kEngineStepTokens,
    &kEngineStepSequences,
    &kEnginePreemptions,
    &kPrefixTokens,
    &kPrefixTokensFound,
    &kKvUsage,
    &kKvBlocks,
    &kKvBytes,
    &kGroupEpoch,
    &kWeightBytes,
};

}  // namespace metric
}  // namespace octavo
