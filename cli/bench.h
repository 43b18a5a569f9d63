#pragma once

// Benchmarks against what the same machine can do, measured in the same run.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/context.h"
#include "cli/probe_client.h"
#include "cli/session.h"
#include "nlohmann/json.hpp"

namespace octavo {

struct BenchFlags {
  ClusterFlags cluster;
  std::string dir;     // scratch folder; empty: $XDG_STATE_HOME/octavo/bench
  std::string source;  // a checkpoint of the user's; empty: a random one, kept in `dir`
  std::string recipe;  // empty: of the source as it is (serving), fp8-dynamic (quantize)
  int rounds = 3;
  double probe_seconds = 6;
  bool json = false;
};

// One figure beside its yardstick.
struct BenchRow {
  std::string name;
  double value = 0;
  std::string unit;
  double bound = 0;  // what the machine allows, in the same unit
  std::string bound_name;
  double ratio = 0;  // value / bound
  std::string bar;   // what the ratio should be: "<= 1.5"
  nlohmann::ordered_json details;
};

// What a benchmark measured of Octavo; judged afterwards against rates probed before and after it.
using BenchJudge = std::function<BenchRow(const ProbeRates&)>;

// Wall time from submitting a job to its published folder, source evicted from the page cache,
// over the largest of: reading the source, writing the output, casting, verifying.
absl::StatusOr<BenchJudge> BenchQuantize(const Context& context, const BenchFlags& flags);
// Bytes of weights read per second while decoding one sequence, over the memory read probe.
absl::StatusOr<BenchJudge> BenchDecode(const Context& context, const BenchFlags& flags);
// Operations per second while reading a prompt, over the FMA probe.
absl::StatusOr<BenchJudge> BenchPrefill(const Context& context, const BenchFlags& flags);

// bench serve, a load generator (bench_serve.cc).
void AddBenchServe(CLI::App& bench, Context& context);

// flags.source, or the random model that benchmarks use: 1.14 B parameters, 2.3 GB in BF16, made
// under flags.dir when it is not there.
absl::StatusOr<std::string> BenchSource(const BenchFlags& flags);
// Quantizes `source` with flags.recipe into flags.dir, once.
absl::StatusOr<std::string> BenchQuantized(const Context& context, const BenchFlags& flags,
                                           const std::string& source);

}  // namespace octavo
