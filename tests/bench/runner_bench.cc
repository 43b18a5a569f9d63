// Rates of the runner on a checkpoint folder, without any cluster:
//   runner_bench decode DIR [threads] [isa]          tokens/s and weight bytes/s against a read
//   probe runner_bench prefill DIR [threads] [isa]         of 512 tokens in chunks of 256
//   runner_bench first DIR [threads] [isa]           the first steps of 256 tokens, page faults
//   runner_bench nll DIR IDS_FILE [threads] [isa]    mean NLL of windows: one line of ids each

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/plan/serve_plan.h"
#include "core/tensor/bare/fp_env.h"
#include "kernels/softmax.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"

namespace octavo {
namespace {

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// CPU seconds of all threads so far.
double CpuNow() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

v1::ServePlan PlanOf(const std::string& dir, int64_t length) {
  auto checkpoint = OpenCheckpoint(dir);
  if (!checkpoint.ok()) Die(checkpoint.status());
  auto quantization = ReadQuantization(checkpoint->config, checkpoint->tensors);
  if (!quantization.ok()) Die(quantization.status());
  std::vector<ServedTensor> tensors;
  for (size_t i = 0; i < checkpoint->tensors.size(); ++i) {
    const TensorQuantization& one = quantization->tensors[i];
    if (one.is_scale) continue;
    ServedTensor& tensor = tensors.emplace_back();
    tensor.tensor = checkpoint->tensors[i];
    if (!one.quantized) continue;
    tensor.scheme = one.scheme;
    tensor.scale = one.scale;
  }
  ServeOptions options;
  options.max_model_len = length;
  auto plan = PlanServing(checkpoint->model, tensors, options);
  if (!plan.ok()) Die(plan.status());
  return *plan;
}

v1::Step StepOf(const std::vector<int32_t>& ids, int64_t begin, int64_t end, bool all) {
  v1::Step step;
  v1::StepChunk* chunk = step.add_chunks();
  chunk->set_start(static_cast<uint32_t>(begin));
  for (int64_t i = begin; i < end; ++i) chunk->add_tokens(ids[static_cast<size_t>(i)]);
  for (int64_t i = 0; i < (end + 31) / 32; ++i) chunk->add_blocks(static_cast<uint32_t>(i));
  chunk->set_logits_all(all);
  chunk->set_logits_last(true);
  return step;
}

void RunStep(ModelRunner* runner, const v1::Step& step, Logits* logits) {
  const absl::Status status = runner->Run(step, logits);
  if (!status.ok()) Die(status);
}

// Bytes/s of `threads` threads that read 8 streams each.
double ReadProbe(int threads) {
  constexpr size_t kBytes = size_t{256} << 20;
  static std::vector<uint64_t> memory(kBytes / 8 * 2, 1);
  std::vector<std::thread> pool;
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 64);
  const double start = Now();
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      const size_t words = memory.size() / static_cast<size_t>(threads) / 8;
      const uint64_t* base = memory.data() + static_cast<size_t>(t) * words * 8;
      uint64_t sum[8] = {};
      for (size_t i = 0; i < words; i += 8) {
        for (size_t s = 0; s < 8; ++s) sum[s] += base[s * words + i];
      }
      for (const uint64_t part : sum) sums[static_cast<size_t>(t) * 64] += part;
    });
  }
  for (std::thread& thread : pool) thread.join();
  return static_cast<double>(memory.size() * 8) / (Now() - start);
}

// What one token of a dense model reads: all weights but an embedding that is not the head too.
double TokenBytes(const ModelRunner& runner) {
  const v1::ModelSpec& model = runner.plan().model();
  const auto held = static_cast<double>(runner.weight_bytes().all());
  const auto embedding = static_cast<double>(model.vocab_size() * model.hidden_size() * 2);
  return model.tied_embeddings() ? held : held - embedding;
}

void Decode(ModelRunner* runner) {
  const std::vector<int32_t> ids(256, 1);
  Logits logits;
  RunStep(runner, StepOf(ids, 0, 128, false), &logits);
  const double bytes = TokenBytes(*runner);
  for (int round = 0; round < 5; ++round) {
    const double probe = ReadProbe(2);
    const double start = Now();
    const double cpu = CpuNow();
    const int64_t steps = 24;
    for (int64_t i = 0; i < steps; ++i) {
      RunStep(runner, StepOf(ids, 128 + i, 129 + i, false), &logits);
    }
    const double seconds = (Now() - start) / static_cast<double>(steps);
    std::printf("decode %.2f ms (cpu %.2f) %.1f tokens/s  %.2f GB/s  probe %.2f GB/s  ratio %.3f\n",
                seconds * 1e3, (CpuNow() - cpu) * 1e3 / static_cast<double>(steps), 1 / seconds,
                bytes / seconds * 1e-9, probe * 1e-9, bytes / seconds / probe);
  }
}

void Prefill(ModelRunner* runner) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 512; ++i) ids.push_back(i * 7 % 1000);
  Logits logits;
  for (int round = 0; round < 4; ++round) {
    const double start = Now();
    const double cpu = CpuNow();
    RunStep(runner, StepOf(ids, 0, 256, false), &logits);
    RunStep(runner, StepOf(ids, 256, 512, false), &logits);
    const double seconds = Now() - start;
    std::printf("prefill 512 tokens: %.3f s (cpu %.3f), %.1f tokens/s\n", seconds, CpuNow() - cpu,
                512 / seconds);
  }
}

// Page faults of this process so far.
long FaultsNow() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// The first steps of 256 tokens: over the same blocks of the cache, then over others.
void First(ModelRunner* runner) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 256; ++i) ids.push_back(i * 7 % 1000);
  Logits logits;
  for (const uint32_t block : {0u, 0u, 0u, 16u, 16u, 16u}) {
    v1::Step step = StepOf(ids, 0, 256, false);
    for (uint32_t& one : *step.mutable_chunks(0)->mutable_blocks()) one += block;
    const long faults = FaultsNow();
    const double start = Now();
    RunStep(runner, step, &logits);
    std::printf("256 tokens from block %u on: %.4f s, %ld page faults\n", block, Now() - start,
                FaultsNow() - faults);
  }
}

void Nll(ModelRunner* runner, const std::string& file, Isa isa) {
  const FpEnv env;
  std::ifstream in(file);
  std::string line;
  double total = 0;
  int windows = 0;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::vector<int32_t> ids;
    for (int32_t id = 0; words >> id;) ids.push_back(id);
    const auto count = static_cast<int64_t>(ids.size());
    double nll = 0;
    for (int64_t begin = 0; begin < count; begin += 256) {
      Logits logits;
      const int64_t end = std::min(begin + 256, count);
      RunStep(runner, StepOf(ids, begin, end, true), &logits);
      for (int64_t t = begin; t < end && t + 1 < count; ++t) {
        const float* row = logits.values.data() + (t - begin) * logits.vocab;
        nll -= SoftmaxOpsFor(isa)
                   .log_sum(row, logits.vocab)
                   .LogProb(row[ids[static_cast<size_t>(t) + 1]]);
      }
    }
    total += nll / static_cast<double>(count - 1);
    ++windows;
    std::printf("window %d nll %.6f mean %.6f\n", windows, nll / static_cast<double>(count - 1),
                total / windows);
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  if (argc < 3) return 64;
  const std::string mode = argv[1];
  const int first = mode == "nll" ? 4 : 3;
  RunnerOptions options;
  options.threads = argc > first ? std::atoi(argv[first]) : 2;
  options.isa = argc > first + 1 ? ParseIsa(argv[first + 1]).value_or(BestIsa()) : BestIsa();
  const v1::ServePlan plan = PlanOf(argv[2], 2048);
  auto group = MakeLocalGroup(1);
  const double start = Now();
  auto runner = ModelRunner::Load(argv[2], plan, 0, group[0].get(), options);
  if (!runner.ok()) Die(runner.status());
  std::printf("loaded in %.2f s, %.1f MB resident, %.1f MB per token\n", Now() - start,
              static_cast<double>((*runner)->resident_bytes()) * 1e-6, TokenBytes(**runner) * 1e-6);
  if (mode == "decode") Decode(runner->get());
  if (mode == "first") First(runner->get());
  if (mode == "prefill") Prefill(runner->get());
  if (mode == "nll") Nll(runner->get(), argv[3], options.isa);
  return 0;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) { return octavo::Main(argc, argv); }
