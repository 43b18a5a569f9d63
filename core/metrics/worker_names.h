#pragma once

// The metrics of workers. See names.h.

#include "core/metrics/definition.h"

namespace octavo::metric {

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
inline constexpr MetricDef kHeartbeatRtt{
    "octavo_heartbeat_rtt_seconds",
    "Time of a beat to the coordinator's count of it and back, of one beat in twenty.",
    kHistogram,
    kWorker,
    {},
    kStepBuckets};
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
                                          "Requests in the engine's queue, by model and by what "
                                          "the first of them lacks (capacity, kv).",
                                          kGauge,
                                          kWorker,
                                          {"model", "reason"}};
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
inline constexpr MetricDef kEnginePrefillSeconds{
    "octavo_engine_prefill_seconds",
    "Time of a request from its first step to its first token.",
    kHistogram,
    kWorker,
    {},
    kWaitBuckets};
inline constexpr MetricDef kEngineDecodeSeconds{
    "octavo_engine_decode_seconds",
    "Time of a request from its first token to its last, of those with two or more.",
    kHistogram,
    kWorker,
    {},
    kRequestBuckets};
inline constexpr MetricDef kCoalescedWrites{
    "octavo_stream_coalesced_writes_total",
    "Writes to a stream that carried several tokens, for its reader was slower than the steps.",
    kCounter, kWorker};
inline constexpr MetricDef kEngineSteps{"octavo_engine_steps_total",
                                        "Forward steps of this rank, by kind (decode: one token "
                                        "of every sequence; mixed: of some).",
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
                                         "Tokens that went through forward steps, by kind of the "
                                         "sequence's part (prefill, decode).",
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
inline constexpr MetricDef kEnginePhaseSeconds{
    "octavo_engine_phase_seconds_total",
    "Time of this rank's steps by phase: compute and collective on every rank; schedule, prepare "
    "(the step goes to followers), collect (waiting for them), sample and emit on the leader.",
    kCounter,
    kWorker,
    {"phase"}};
inline constexpr MetricDef kEngineNonFinite{
    "octavo_engine_nonfinite_total",
    "Steps that ended with a NaN or an infinity in activations or logits, which ends their group.",
    kCounter, kWorker};
inline constexpr MetricDef kEnginePromptTokens{
    "octavo_engine_prompt_tokens_total",
    "Tokens that sequences had when they were let in: computed, taken from the prefix cache, or "
    "computed again (replay) after a preemption or the loss of a group.",
    kCounter,
    kWorker,
    {"source"}};
inline constexpr MetricDef kCollectiveBytes{
    "octavo_collective_bytes_total",
    "Bytes that collectives of this rank brought together, its own among them, by operation.",
    kCounter,
    kWorker,
    {"op"}};
inline constexpr MetricDef kCollectiveSeconds{
    "octavo_collective_duration_seconds",
    "Time of one collective of this rank, its wait for the others included.",
    kHistogram,
    kWorker,
    {"op"},
    kCollectiveBuckets};
inline constexpr MetricDef kRankSkew{
    "octavo_rank_skew_seconds",
    "Of a step of several ranks: the longest time that one spent in collectives less the shortest, "
    "which is what others waited for the slowest.",
    kHistogram,
    kWorker,
    {},
    kCollectiveBuckets};
inline constexpr MetricDef kExpertTokens{
    "octavo_engine_expert_tokens_total",
    "Tokens that routers of a mixture sent to each expert, summed over layers; on the leader.",
    kCounter,
    kWorker,
    {"model", "expert"}};
inline constexpr MetricDef kCollectiveAborts{
    "octavo_collective_aborts_total",
    "Groups whose collectives this rank ended for another reason than an unload, by cause.",
    kCounter,
    kWorker,
    {"cause"}};
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
inline constexpr MetricDef kKvConcurrency{
    "octavo_kv_cache_max_concurrency",
    "Sequences of the greatest length that fit this leader's key-value blocks, by model.",
    kGauge,
    kWorker,
    {"model"}};
inline constexpr MetricDef kGroupEpoch{"octavo_group_epoch",
                                       "Latest epoch of the groups of a model that this worker is "
                                       "in; 0: none.",
                                       kGauge,
                                       kWorker,
                                       {"model"}};
inline constexpr MetricDef kGroupSize{
    "octavo_group_size",
    "Ranks of the model's group with the latest epoch that this worker is in; 0: none.",
    kGauge,
    kWorker,
    {"model"}};
inline constexpr MetricDef kEngineState{
    "octavo_engine_state",
    "Groups of a model on this worker by state (loading, serving, draining): one of them is 1, but "
    "while one group takes over from another.",
    kGauge,
    kWorker,
    {"model", "state"}};
inline constexpr MetricDef kWeightBytes{
    "octavo_weight_bytes",
    "Bytes of the matrices that this rank holds, by model and by how they are stored (bf16, fp8, "
    "int8).",
    kGauge,
    kWorker,
    {"model", "dtype"}};

}  // namespace octavo::metric
