#pragma once

// Every metric of Octavo. The only place where a metric is named is the table of its program, in
// coordinator_names.h and worker_names.h; here are those of both, and the list of all.
//
// Rules: prefix octavo_, base units (seconds, bytes, ratios from 0 to 1), counters end in _total,
// labels take values from small closed sets (never ids, paths or free text). To add one: define it
// there and list it in kAllMetrics.

#include "core/metrics/coordinator_names.h"
#include "core/metrics/definition.h"
#include "core/metrics/worker_names.h"

namespace octavo {
namespace metric {

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

inline constexpr const MetricDef* kAllMetrics[] = {
    &kBuildInfo,
    &kRss,
    &kRssPeak,
    &kWorkers,
    &kWorkersLost,
    &kHeartbeatAge,
    &kRecoveries,
    &kRecoverySeconds,
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
    &kModelInfo,
    &kRequests,
    &kRequestsRunning,
    &kRequestsAwaitGroup,
    &kRequestSeconds,
    &kTimeToFirstToken,
    &kInterTokenLatency,
    &kTimePerOutputToken,
    &kPromptTokens,
    &kGenerationTokens,
    &kDiscardedTokens,
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
    &kEnginePrefillSeconds,
    &kEngineDecodeSeconds,
    &kCoalescedWrites,
    &kEngineSteps,
    &kEngineStepSeconds,
    &kEngineTokens,
    &kEngineStepTokens,
    &kEngineStepSequences,
    &kEnginePhaseSeconds,
    &kEngineNonFinite,
    &kEnginePromptTokens,
    &kCollectiveBytes,
    &kCollectiveSeconds,
    &kCollectiveAborts,
    &kEnginePreemptions,
    &kPrefixTokens,
    &kPrefixTokensFound,
    &kKvUsage,
    &kKvBlocks,
    &kKvBytes,
    &kKvConcurrency,
    &kGroupEpoch,
    &kGroupSize,
    &kEngineState,
    &kWeightBytes,
};

}  // namespace metric
}  // namespace octavo
