#include "cli/rates.h"

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

std::string PathOf(const UserPlaces& places) { return places.state_dir + "/rates.json"; }

}  // namespace

MachineRates LoadRates(const UserPlaces& places) {
  std::ifstream file(PathOf(places));
  const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  auto number = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_number() ? json[key].get<double>()
                                                                           : 0.0;
  };
  MachineRates rates;
  rates.read = number("read_bytes_per_second");
  rates.write = number("write_bytes_per_second");
  rates.disk = number("disk_bytes_per_second");
  rates.cast = number("cast_bytes_per_second");
  rates.verify = number("verify_bytes_per_second");
  rates.products_core = number("products_core_per_second");
  rates.products_all = number("products_all_per_second");
  rates.cores = std::max(1, static_cast<int>(number("cores")));
  return rates;
}

absl::Status SaveRates(const UserPlaces& places, const MachineRates& rates) {
  std::error_code error;
  std::filesystem::create_directories(places.state_dir, error);
  const nlohmann::ordered_json json = {{"read_bytes_per_second", rates.read},
                                       {"write_bytes_per_second", rates.write},
                                       {"disk_bytes_per_second", rates.disk},
                                       {"cast_bytes_per_second", rates.cast},
                                       {"verify_bytes_per_second", rates.verify},
                                       {"products_core_per_second", rates.products_core},
                                       {"products_all_per_second", rates.products_all},
                                       {"cores", rates.cores}};
  std::ofstream file(PathOf(places));
  file << json.dump(2) << "\n";
  file.close();
  if (!file) return ErrnoError("cannot save the rates", errno, {.file = PathOf(places)});
  return absl::OkStatus();
}

}  // namespace octavo
