// What a rank tells of its engines: counters and times of every step, gauges of every model.

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <string>

#include "core/base/error.h"
#include "core/base/status.h"
#include "worker/serve/serving_rank.h"

namespace octavo {

absl::StatusOr<std::span<const float>> RankHost::TimedRun(Serving& serving, const v1::Step& step) {
  int tokens = 0;
  int decodes = 0;
  for (const v1::StepChunk& chunk : step.chunks()) {
    tokens += chunk.tokens_size();
    decodes += chunk.tokens_size() == 1 ? 1 : 0;
  }
  const std::string_view kind = decodes == step.chunks_size() ? "decode"
                                : decodes == 0                ? "prefill"
                                                              : "mixed";
  const auto start = std::chrono::steady_clock::now();
  const uint64_t waited = serving.communicator->nanos();
  OCTAVO_RETURN_IF_ERROR(serving.model.run(step, &serving.logits));
  serving.waited_nanos = serving.communicator->nanos() - waited;
  const std::chrono::nanoseconds nanos = std::chrono::steady_clock::now() - start;
  serving.run_nanos += static_cast<uint64_t>(nanos.count());
  metrics_->Add(metric::kEngineSteps, 1, {kind});
  metrics_->Observe(metric::kEngineStepSeconds, static_cast<double>(nanos.count()) * 1e-9, {kind});
  if (decodes > 0) metrics_->Add(metric::kEngineTokens, decodes, {"decode"});
  if (tokens > decodes) metrics_->Add(metric::kEngineTokens, tokens - decodes, {"prefill"});
  metrics_->Observe(metric::kEngineStepTokens, tokens);
  metrics_->Observe(metric::kEngineStepSequences, step.chunks_size());
  const std::vector<uint64_t>& experts = serving.logits.expert_tokens;
  for (size_t e = 0; e < experts.size(); ++e) {
    metrics_->Add(metric::kExpertTokens, static_cast<double>(experts[e]),
                  {serving.load.model_id(), std::to_string(e)});
  }
  Show(serving);
  return std::span<const float>(serving.logits.values);
}

void RankHost::ShowSkew(const Serving& serving, std::span<const v1::StepDone> followers) {
  if (followers.empty()) return;
  uint64_t least = serving.waited_nanos;
  uint64_t most = serving.waited_nanos;
  for (const v1::StepDone& done : followers) {
    least = std::min(least, done.waited_nanos());
    most = std::max(most, done.waited_nanos());
  }
  metrics_->Observe(metric::kRankSkew, static_cast<double>(most - least) * 1e-9);
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

void RankHost::ShowCosts(Serving& serving) {
  {
    MutexLock lock(serving.mutex);
    if (!serving.ready) return;
  }
  MutexLock lock(serving.showing);
  if (serving.engine != nullptr) ShowEngineCosts(serving, serving.costs_counted);
  const uint64_t run = serving.run_nanos;
  ShowCollectives(serving, serving.collectives_counted);
  uint64_t waited = 0;
  for (const CollectiveFigures& one : serving.collectives_counted) waited += one.nanos;
  // Collectives of a step that is not over yet count already: then this one waits.
  if (run < serving.compute_counted + waited) return;
  const uint64_t compute = run - waited - serving.compute_counted;
  metrics_->Add(metric::kEnginePhaseSeconds, static_cast<double>(compute) * 1e-9, {"compute"});
  serving.compute_counted += compute;
}

void RankHost::ShowEngineCosts(Serving& serving, EngineFigures& counted) {
  static constexpr std::string_view kPhases[kEnginePhases] = {"schedule", "prepare", "collect",
                                                              "sample", "emit"};
  const EngineFigures figures = serving.engine->figures();
  for (size_t phase = 0; phase < kEnginePhases; ++phase) {
    const uint64_t nanos = figures.nanos[phase] - counted.nanos[phase];
    metrics_->Add(metric::kEnginePhaseSeconds, static_cast<double>(nanos) * 1e-9, {kPhases[phase]});
  }
  const auto count = [&](std::string_view source, uint64_t EngineFigures::*figure) {
    metrics_->Add(metric::kEnginePromptTokens,
                  static_cast<double>(figures.*figure - counted.*figure), {source});
  };
  count("compute", &EngineFigures::let_in_new);
  count("prefix_cache", &EngineFigures::let_in_found);
  count("replay", &EngineFigures::let_in_again);
  counted = figures;
}

void RankHost::ShowCollectives(Serving& serving, std::vector<CollectiveFigures>& counted) {
  std::vector<CollectiveFigures> all = serving.communicator->figures();
  uint64_t nanos = 0;
  for (size_t op = 0; op < all.size(); ++op) {
    CollectiveFigures more = all[op];
    if (!counted.empty()) {
      more.bytes -= counted[op].bytes;
      more.nanos -= counted[op].nanos;
      for (size_t i = 0; i < more.counts.size(); ++i) more.counts[i] -= counted[op].counts[i];
    }
    nanos += more.nanos;
    const uint64_t calls = std::reduce(more.counts.begin(), more.counts.end());
    if (calls + more.bytes + more.nanos == 0) continue;
    metrics_->Add(metric::kCollectiveBytes, static_cast<double>(more.bytes), {more.op});
    metrics_->ObserveMany(metric::kCollectiveSeconds, more.counts,
                          static_cast<double>(more.nanos) * 1e-9, {more.op});
  }
  metrics_->Add(metric::kEnginePhaseSeconds, static_cast<double>(nanos) * 1e-9, {"collective"});
  counted = std::move(all);
}

void RankHost::CountBroken(const absl::Status& why, bool first) {
  if (ReasonOf(why) == Reason::kNonFinite) metrics_->Add(metric::kEngineNonFinite);
  if (first) metrics_->Add(metric::kCollectiveAborts, 1, {"step"});
}

void RankHost::ShowHeld(const std::string& model_id) {
  uint64_t epoch = 0, bf16 = 0, fp8 = 0, fit = 0;
  WeightBytes weights;
  uint32_t size = 0;
  std::map<std::string_view, int> states = {{"loading", 0}, {"serving", 0}, {"draining", 0}};
  for (const auto& serving : All()) {
    const v1::LoadRank& load = serving->load;
    if (load.model_id() != model_id) continue;
    MutexLock lock(serving->mutex);
    if (load.rank() == 0 && !serving->over) {
      ++states[!serving->ready                       ? "loading"
               : serving->engine->figures().draining ? "draining"
                                                     : "serving"];
    }
    if (!serving->ready) continue;
    if (load.group_epoch() > epoch) size = load.plan().rank_count();
    epoch = std::max(epoch, load.group_epoch());
    if (load.rank() == 0) {
      fit += serving->model.kv_block_count /
             std::max(1u, BlockPool::BlocksFor(static_cast<size_t>(load.plan().max_model_len())));
    }
    weights += serving->model.weight_bytes;
    (load.plan().cache_scales().empty() ? bf16 : fp8) +=
        load.plan().ranks(static_cast<int>(load.rank())).kv_bytes();
  }
  metrics_->Set(metric::kGroupEpoch, static_cast<double>(epoch), {model_id});
  metrics_->Set(metric::kGroupSize, size, {model_id});
  metrics_->Set(metric::kKvConcurrency, static_cast<double>(fit), {model_id});
  for (const auto& [state, groups] : states) {
    metrics_->Set(metric::kEngineState, groups, {model_id, state});
  }
  metrics_->Set(metric::kWeightBytes, static_cast<double>(weights.bf16), {model_id, "bf16"});
  metrics_->Set(metric::kWeightBytes, static_cast<double>(weights.fp8), {model_id, "fp8"});
  metrics_->Set(metric::kWeightBytes, static_cast<double>(weights.int8), {model_id, "int8"});
  metrics_->Set(metric::kKvBytes, static_cast<double>(bf16), {model_id, "bf16"});
  metrics_->Set(metric::kKvBytes, static_cast<double>(fp8), {model_id, "fp8"});
  ShowLoad(model_id);
}

void RankHost::ShowLoad(const std::string& model_id) {
  EngineFigures sum;
  double waiting[2] = {};
  for (const auto& serving : All()) {
    if (serving->load.model_id() != model_id) continue;
    MutexLock lock(serving->mutex);
    if (!serving->ready || serving->engine == nullptr) continue;
    const EngineFigures figures = serving->engine->figures();
    sum.running += figures.running;
    waiting[figures.queue_wants_blocks ? 1 : 0] += static_cast<double>(figures.queued);
    sum.kv_blocks += figures.kv_blocks;
    sum.kv_blocks_free += figures.kv_blocks_free;
    sum.kv_blocks_cached += figures.kv_blocks_cached;
  }
  const double used = sum.kv_blocks - sum.kv_blocks_free;
  metrics_->Set(metric::kEngineRunning, static_cast<double>(sum.running), {model_id});
  metrics_->Set(metric::kEngineWaiting, waiting[0], {model_id, "capacity"});
  metrics_->Set(metric::kEngineWaiting, waiting[1], {model_id, "kv"});
  metrics_->Set(metric::kKvUsage, used / std::max(1u, sum.kv_blocks), {model_id});
  metrics_->Set(metric::kKvBlocks, used, {model_id, "used"});
  metrics_->Set(metric::kKvBlocks, sum.kv_blocks_cached, {model_id, "cached"});
  metrics_->Set(metric::kKvBlocks, sum.kv_blocks_free - sum.kv_blocks_cached, {model_id, "free"});
}

}  // namespace octavo
