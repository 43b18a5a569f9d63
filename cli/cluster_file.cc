#include "cli/cluster_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using Json = nlohmann::ordered_json;

absl::Status WritePrivate(const std::string& path, const std::string& text) {
  const std::string staged = fmt::format("{}.{}", path, getpid());
  OwnedFd fd(open(staged.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (fd.get() < 0) return ErrnoError("cannot write", errno, {.file = staged});
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = write(fd.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoError("cannot write", errno, {.file = staged});
    done += static_cast<size_t>(count);
  }
  if (rename(staged.c_str(), path.c_str()) != 0) {
    return ErrnoError("cannot rename", errno, {.file = path});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoError("cannot read", errno, {.file = path});
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string RegisterPath(const UserPlaces& places, const std::string& address) {
  std::string name = address;
  std::replace(name.begin(), name.end(), '/', '_');
  return places.state_dir + "/clusters/" + name;
}

std::string StringAt(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

int64_t IntAt(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_number_integer() ? json[key].get<int64_t>() : 0;
}

}  // namespace

std::string ClusterFilePath(const std::string& state_dir) { return state_dir + "/cluster.json"; }

absl::Status WriteClusterFile(const std::string& state_dir, const ClusterRecord& record) {
  Json workers = Json::array();
  Json pids = Json::array();
  for (const ProcessInfo& process : record.processes) {
    pids.push_back(process.pid);
    if (process.name == "coordinator") continue;
    workers.push_back({{"name", process.name},
                       {"pid", process.pid},
                       {"address", process.address},
                       {"metrics", process.metrics},
                       {"restarts", process.restarts}});
  }
  const Json json = {{"address", record.address},
                     {"metrics", record.metrics},
                     {"token", record.token},
                     {"keeper_pid", record.keeper_pid},
                     {"pids", pids},
                     {"workers", workers}};
  return WritePrivate(ClusterFilePath(state_dir), json.dump(2) + "\n");
}

absl::StatusOr<ClusterRecord> ReadClusterFile(const std::string& state_dir) {
  const std::string path = ClusterFilePath(state_dir);
  auto text = ReadText(path);
  if (!text.ok()) {
    return MakeError(Reason::kNotFound, "no local cluster is kept there", {.file = path},
                     "Start one with: octavo up");
  }
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return MakeError(Reason::kBadRequest, "not a cluster file", {.file = path});
  }
  ClusterRecord record;
  record.address = StringAt(json, "address");
  record.metrics = StringAt(json, "metrics");
  record.token = StringAt(json, "token");
  record.keeper_pid = static_cast<pid_t>(IntAt(json, "keeper_pid"));
  if (json.contains("workers") && json["workers"].is_array()) {
    for (const Json& worker : json["workers"]) {
      if (!worker.is_object()) continue;
      record.processes.push_back({.name = StringAt(worker, "name"),
                                  .pid = static_cast<pid_t>(IntAt(worker, "pid")),
                                  .address = StringAt(worker, "address"),
                                  .metrics = StringAt(worker, "metrics"),
                                  .restarts = static_cast<int>(IntAt(worker, "restarts"))});
    }
  }
  return record;
}

absl::Status RegisterToken(const UserPlaces& places, const std::string& address,
                           const std::string& token) {
  const std::string path = RegisterPath(places, address);
  const auto dir = std::filesystem::path(path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoError("cannot make", error.value(), {.file = dir.string()});
  chmod(dir.c_str(), 0700);
  return WritePrivate(path, token + "\n");
}

void ForgetToken(const UserPlaces& places, const std::string& address) {
  unlink(RegisterPath(places, address).c_str());
}

absl::StatusOr<std::string> FindToken(const UserPlaces& places, const std::string& address,
                                      const std::string& token_file) {
  std::string token = places.token;
  if (!token_file.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(token, ReadText(token_file));
  } else if (token.empty()) {
    if (auto text = ReadText(RegisterPath(places, address)); text.ok()) token = *text;
  }
  while (!token.empty() && (token.back() == '\n' || token.back() == '\r')) token.pop_back();
  return token;
}

}  // namespace octavo
