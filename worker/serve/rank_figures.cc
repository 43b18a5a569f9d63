// What a rank tells of its engines: counters and times of every step, gauges of every model.

#include <algorithm>
#include <chrono>

#include "core/base/status.h"
#include "worker/serve/serving_rank.h"

namespace octavo {

absl::StatusOr<std::span<const float>> RankHost::TimedRun(Serving& serving, const v1::Step& step) {
  size_t tokens = 0;
  std::string_view kind = "decode";
  for (const v1::StepChunk& chunk : step.chunks()) {
    tokens += static_cast<size_t>(chunk.tokens_size());
    if (chunk.tokens_size() > 1) kind = "prefill";
  }
  const auto start = std::chrono::steady_clock::now();
  OCTAVO_RETURN_IF_ERROR(serving.model.run(step, &serving.logits));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  metrics_->Add(metric::kEngineSteps, 1, {kind});
  metrics_->Observe(metric::kEngineStepSeconds, took.count(), {kind});
  metrics_->Add(metric::kEngineTokens, static_cast<double>(tokens), {kind});
  metrics_->Observe(metric::kEngineStepTokens, static_cast<double>(tokens));
  metrics_->Observe(metric::kEngineStepSequences, step.chunks_size());
  Show(serving);
  return std::span<const float>(serving.logits.values);
}

void RankHost::Show(Serving& serving) {
  {
    MutexLock lock(serving.mutex);
    if (!serving.ready || serving.engine == nullptr) return;
  }
  ShowLoad(serving.load.model_id());
  MutexLock lock(serving.showing);
  const EngineFigures figures = serving.engine->figures();
  EngineFigures& counted = serving.counted;
  const auto count = [&](const MetricDef& counter, uint64_t EngineFigures::*figure) {
    metrics_->Add(counter, static_cast<double>(figures.*figure - counted.*figure));
  };
  count(metric::kEnginePreemptions, &EngineFigures::preemptions);
  count(metric::kPrefixTokens, &EngineFigures::prefix_tokens);
  count(metric::kPrefixTokensFound, &EngineFigures::prefix_tokens_found);
  counted = figures;
}

void RankHost::ShowHeld(const std::string& model_id) {
  uint64_t epoch = 0, weights = 0, bf16 = 0, fp8 = 0;
  for (const auto& serving : All()) {
    const v1::LoadRank& load = serving->load;
    if (load.model_id() != model_id) continue;
    MutexLock lock(serving->mutex);
    if (!serving->ready) continue;
    epoch = std::max(epoch, load.group_epoch());
    weights += serving->model.weight_bytes;
    (load.plan().cache_scales().empty() ? bf16 : fp8) +=
        load.plan().ranks(static_cast<int>(load.rank())).kv_bytes();
  }
  metrics_->Set(metric::kGroupEpoch, static_cast<double>(epoch), {model_id});
  metrics_->Set(metric::kWeightBytes, static_cast<double>(weights), {model_id});
  metrics_->Set(metric::kKvBytes, static_cast<double>(bf16), {model_id, "bf16"});
  metrics_->Set(metric::kKvBytes, static_cast<double>(fp8), {model_id, "fp8"});
  ShowLoad(model_id);
}

void RankHost::ShowLoad(const std::string& model_id) {
  EngineFigures sum;
  for (const auto& serving : All()) {
    if (serving->load.model_id() != model_id) continue;
    MutexLock lock(serving->mutex);
    if (!serving->ready || serving->engine == nullptr) continue;
    const EngineFigures figures = serving->engine->figures();
    sum.running += figures.running;
    sum.queued += figures.queued;
    sum.kv_blocks += figures.kv_blocks;
    sum.kv_blocks_free += figures.kv_blocks_free;
    sum.kv_blocks_cached += figures.kv_blocks_cached;
  }
  const double used = sum.kv_blocks - sum.kv_blocks_free;
  metrics_->Set(metric::kEngineRunning, static_cast<double>(sum.running), {model_id});
  metrics_->Set(metric::kEngineWaiting, static_cast<double>(sum.queued), {model_id});
  metrics_->Set(metric::kKvUsage, used / std::max(1u, sum.kv_blocks), {model_id});
  metrics_->Set(metric::kKvBlocks, used, {model_id, "used"});
  metrics_->Set(metric::kKvBlocks, sum.kv_blocks_cached, {model_id, "cached"});
  metrics_->Set(metric::kKvBlocks, sum.kv_blocks_free - sum.kv_blocks_cached, {model_id, "free"});
}

}  // namespace octavo
