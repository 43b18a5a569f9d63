#include "cli/probe_client.h"

#include <algorithm>
#include <cstdio>

#include "cli/launcher.h"
#include "cli/process.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {

absl::StatusOr<ProbeRates> Probe(const std::string& dir, double seconds) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string bin, BinaryDir());
  OCTAVO_ASSIGN_OR_RETURN(
      const std::string output,
      OutputOf(bin + "/octavo-worker",
               {"probe", "--json", "--dir", dir, "--seconds", fmt::format("{}", seconds)}));
  const auto json = nlohmann::json::parse(output, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return MakeError(Reason::kInternal, "the probe printed something else than one JSON object");
  }
  auto rate = [&](const char* key) {
    return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0.0;
  };
  ProbeRates rates;
  rates.isa = json.value("isa", "");
  rates.threads = std::max(1, static_cast<int>(rate("threads")));
  rates.disk_read = rate("disk_read_bytes_per_second");
  rates.disk_write = rate("disk_write_bytes_per_second");
  rates.disk_both = rate("disk_both_bytes_per_second");
  rates.page_cache_read_core = rate("page_cache_read_core_bytes_per_second");
  rates.page_cache_read_all = rate("page_cache_read_all_bytes_per_second");
  rates.digest_core = rate("digest_core_bytes_per_second");
  rates.digest_all = rate("digest_all_bytes_per_second");
  rates.cast_core = rate("cast_core_bytes_per_second");
  rates.cast_all = rate("cast_all_bytes_per_second");
  rates.memory_read_all = rate("memory_read_all_bytes_per_second");
  rates.fma_flops_core = rate("fma_core_flops");
  rates.fma_flops_all = rate("fma_all_flops");
  return rates;
}

ProbeRates Best(const ProbeRates& a, const ProbeRates& b) {
  ProbeRates best = a;
  for (double ProbeRates::*rate :
       {&ProbeRates::disk_read, &ProbeRates::disk_write, &ProbeRates::disk_both,
        &ProbeRates::page_cache_read_core, &ProbeRates::page_cache_read_all,
        &ProbeRates::digest_core, &ProbeRates::digest_all, &ProbeRates::cast_core,
        &ProbeRates::cast_all, &ProbeRates::memory_read_all, &ProbeRates::fma_flops_core,
        &ProbeRates::fma_flops_all}) {
    best.*rate = std::max(a.*rate, b.*rate);
  }
  return best;
}

MachineRates RatesForPlans(const ProbeRates& probe) {
  MachineRates rates;
  rates.read = probe.disk_read;
  rates.write = probe.disk_write;
  rates.disk = probe.disk_both;
  rates.cast = probe.cast_core;
  if (probe.digest_core > 0 && probe.page_cache_read_core > 0) {
    rates.verify = 1.0 / (1.0 / probe.digest_core + 1.0 / probe.page_cache_read_core);
  }
  rates.products_core = probe.fma_flops_core;
  rates.products_all = probe.fma_flops_all;
  rates.cores = probe.threads;
  return rates;
}

}  // namespace octavo
