// Logits of a checkpoint folder, without any cluster: what tests/oracle/check_families.py compares.
//
//   logits_tool DIR IDS_FILE OUT [RANKS] [CHUNK] [ISA] [CACHE]
//
// IDS_FILE holds one sequence of token ids per line. OUT receives F32 logits, [positions][vocab] of
// all sequences one after the other. RANKS run as threads of this process; CHUNK tokens per step,
// 0: a whole sequence at once; ISA "auto" or a name of kernels/isa.h;
// CACHE "auto", "bf16" or "fp8".

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/control/group_plan.h"
#include "core/base/limits.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"

namespace octavo {
namespace {

using Sequence = std::vector<int32_t>;

struct Settings {
  std::string dir;
  std::string out;
  uint32_t ranks = 1;
  int64_t chunk = 0;
  Isa isa = BestIsa();
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  std::exit(1);
}

std::vector<Sequence> ReadSequences(const std::string& file) {
  std::ifstream in(file);
  if (!in) Die("cannot read " + file);
  std::vector<Sequence> sequences;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    Sequence ids;
    for (int32_t id = 0; words >> id;) ids.push_back(id);
    if (!ids.empty()) sequences.push_back(std::move(ids));
  }
  return sequences;
}

v1::Step StepOf(const Sequence& ids, int64_t begin, int64_t end) {
  v1::Step step;
  v1::StepChunk* chunk = step.add_chunks();
  chunk->set_start(static_cast<uint32_t>(begin));
  for (int64_t i = begin; i < end; ++i) chunk->add_tokens(ids[static_cast<size_t>(i)]);
  for (int64_t i = 0; i * kKvBlockTokens < end; ++i) chunk->add_blocks(static_cast<uint32_t>(i));
  chunk->set_logits_all(true);
  return step;
}

void RunRank(const Settings& settings, const v1::ServePlan& plan, uint32_t rank,
             Communicator* communicator, const std::vector<Sequence>& sequences) {
  RunnerOptions options;
  options.isa = settings.isa;
  auto runner = ModelRunner::Load(settings.dir, plan, rank, communicator, options);
  if (!runner.ok()) Die(std::string(runner.status().message()));
  std::ofstream out;
  if (rank == 0) out.open(settings.out, std::ios::binary);
  for (const Sequence& ids : sequences) {
    const auto count = static_cast<int64_t>(ids.size());
    const int64_t size = settings.chunk > 0 ? settings.chunk : count;
    for (int64_t begin = 0; begin < count; begin += size) {
      Logits logits;
      const absl::Status status = (*runner)->Run(StepOf(ids, begin, std::min(begin + size, count)),
                                                 rank == 0 ? &logits : nullptr);
      if (!status.ok()) Die(std::string(status.message()));
      out.write(reinterpret_cast<const char*>(logits.values.data()),
                static_cast<std::streamsize>(logits.values.size() * sizeof(float)));
    }
  }
  out.close();
  if (rank == 0 && !out) Die("cannot write " + settings.out);
}

int Main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: logits_tool DIR IDS_FILE OUT [RANKS] [CHUNK] [ISA] [CACHE]\n");
    return 64;
  }
  Settings settings;
  settings.dir = argv[1];
  settings.out = argv[3];
  if (argc > 4) settings.ranks = static_cast<uint32_t>(std::atoi(argv[4]));
  if (argc > 5) settings.chunk = std::atoi(argv[5]);
  if (argc > 6) settings.isa = ParseIsa(argv[6]).value_or(BestIsa());
  const std::vector<Sequence> sequences = ReadSequences(argv[2]);
  ServeOptions options{.rank_count = settings.ranks};
  if (argc > 7 && std::string(argv[7]) == "bf16") options.cache_type = v1::CACHE_BF16;
  if (argc > 7 && std::string(argv[7]) == "fp8") options.cache_type = v1::CACHE_FP8;
  const auto planned = PlanGroup(settings.dir, options);
  if (!planned.ok()) Die(std::string(planned.status().message()));
  auto group = MakeLocalGroup(static_cast<int>(settings.ranks));
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < settings.ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { RunRank(settings, planned->plan, rank, group[rank].get(), sequences); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) { return octavo::Main(argc, argv); }
