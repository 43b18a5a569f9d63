// octavo bench quantize | decode | prefill | rates | all; serve is in bench_serve.cc.

#include "cli/bench.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "CLI/CLI.hpp"
#include "cli/quantity.h"
#include "cli/rates.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "core/checkpoint/synth.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Bench = absl::StatusOr<BenchJudge> (*)(const Context&, const BenchFlags&);

void PrintRows(const ProbeRates& probe, const std::vector<BenchRow>& rows, bool json) {
  if (!json) {
    fmt::print("{:<10} {:>12} {:>12} {:<18} {:>7} {:>9}\n", "bench", "value", "bound", "", "ratio",
               "bar");
    for (const BenchRow& row : rows) {
      fmt::print("{:<10} {:>12} {:>12} {:<18} {:>7.3f} {:>9}\n", row.name,
                 fmt::format("{:.2f} {}", row.value, row.unit),
                 fmt::format("{:.2f} {}", row.bound, row.unit), row.bound_name, row.ratio, row.bar);
    }
    return;
  }
  nlohmann::ordered_json object = {
      {"isa", probe.isa}, {"threads", probe.threads}, {"rows", nlohmann::ordered_json::array()}};
  for (const BenchRow& row : rows) {
    object["rows"].push_back({{"name", row.name},
                              {"value", row.value},
                              {"unit", row.unit},
                              {"bound", row.bound},
                              {"bound_name", row.bound_name},
                              {"ratio", row.ratio},
                              {"bar", row.bar},
                              {"details", row.details}});
  }
  fmt::print("{}\n", object.dump());
}

void PrintProbe(const ProbeRates& probe) {
  fmt::print(stderr,
             "{} threads, {}: disk read {}, write {}, both {}, cast {} a core, digest {} a core, "
             "memory read {}, {:.1f} GFLOPS\n",
             probe.threads, probe.isa, RateText(probe.disk_read), RateText(probe.disk_write),
             RateText(probe.disk_both), RateText(probe.cast_core), RateText(probe.digest_core),
             RateText(probe.memory_read_all), probe.fma_flops_all * 1e-9);
}

absl::Status Run(const Context& context, BenchFlags flags, const std::vector<Bench>& benches) {
  if (flags.dir.empty()) flags.dir = context.places.state_dir + "/bench";
  flags.dir = std::filesystem::absolute(flags.dir).lexically_normal().string();
  std::error_code error;
  std::filesystem::create_directories(flags.dir, error);
  if (error) return ErrnoError("cannot make", error.value(), {.file = flags.dir});
  OCTAVO_ASSIGN_OR_RETURN(ProbeRates probe, Probe(flags.dir, flags.probe_seconds));
  PrintProbe(probe);
  std::vector<BenchRow> rows;
  for (const Bench bench : benches) {
    // Other programs and the host's clock come and go: each benchmark lies between two probes, and
    // the better rates are its yardstick.
    OCTAVO_ASSIGN_OR_RETURN(const BenchJudge judge, bench(context, flags));
    OCTAVO_ASSIGN_OR_RETURN(const ProbeRates after, Probe(flags.dir, flags.probe_seconds));
    PrintProbe(after);
    rows.push_back(judge(Best(probe, after)));
    probe = after;
  }
  OCTAVO_RETURN_IF_ERROR(SaveRates(context.places, RatesForPlans(probe)));
  if (!rows.empty()) PrintRows(probe, rows, flags.json);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> BenchSource(const BenchFlags& flags) {
  if (!flags.source.empty()) return flags.source;
  std::string dir = flags.dir + "/llama-1.1b";
  if (std::filesystem::exists(dir)) return dir;
  SynthSpec spec;
  spec.model.set_family("llama");
  spec.model.set_hidden_size(2048);
  spec.model.set_intermediate_size(5632);
  spec.model.set_layer_count(23);
  spec.model.set_head_count(32);
  spec.model.set_kv_head_count(4);
  spec.model.set_vocab_size(32'000);
  spec.model.set_max_position(4096);
  spec.shard_bytes_max = 1'000'000'000;
  fmt::print(stderr, "making {} once\n", dir);
  OCTAVO_RETURN_IF_ERROR(WriteSynthetic(spec, /*seed=*/1, dir));
  return dir;
}

void AddBench(CLI::App& app, Context& context) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      app.add_subcommand("bench", "Measured ratios: what Octavo does over what the machine can");
  command->require_subcommand(1);
  auto add = [&](const char* name, const char* text, std::vector<Bench> benches) {
    CLI::App* sub = command->add_subcommand(name, text);
    sub->add_option("--dir", flags->dir, "Scratch folder, on the disk to measure");
    sub->add_option("--source", flags->source, "Your own checkpoint instead of a random one");
    sub->add_option("--recipe", flags->recipe, "quantize: default fp8-dynamic; else: BF16");
    sub->add_option("--rounds", flags->rounds, "The best of so many counts")
        ->check(CLI::Range(1, 100))
        ->capture_default_str();
    sub->add_option("--probe-seconds", flags->probe_seconds, "Time of a probe")
        ->check(CLI::Range(1.0, 120.0))
        ->capture_default_str();
    sub->add_option("--workers", flags->cluster.workers, "Workers (quantize)")
        ->check(CLI::Range(1, 64));
    sub->add_option("--memory", flags->cluster.memory, "Memory of each worker (quantize)")
        ->capture_default_str();
    sub->add_flag("--json", flags->json, "One JSON object");
    sub->callback([&context, flags, benches = std::move(benches)] {
      context.action = [&context, flags, benches] { return Run(context, *flags, benches); };
    });
  };
  add("quantize", "A job's wall time over its bound", {BenchQuantize});
  add("decode", "Weight bytes read while decoding over the memory's", {BenchDecode});
  add("prefill", "Operations while reading a prompt over the multipliers'", {BenchPrefill});
  add("all", "All of these", {BenchQuantize, BenchDecode, BenchPrefill});
  add("rates", "Only measure this machine, for octavo plan", {});
  AddBenchServe(*command, context);
}

}  // namespace octavo
