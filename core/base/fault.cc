#include "core/base/fault.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <string>

namespace octavo {
namespace {

std::atomic<bool> armed{false};
std::atomic<int> passages_left{0};
struct Armed {
  std::string name;
  std::string once_file;
};
Armed& Point() {
  static Armed armed_point;
  return armed_point;
}

// True for the one process that may die when a file decides, always true without one.
bool MayDie() {
  const std::string& file = Point().once_file;
  return file.empty() || open(file.c_str(), O_CREAT | O_EXCL | O_CLOEXEC | O_WRONLY, 0600) >= 0;
}

}  // namespace

void ArmFaultPoint(std::string_view spec) {
  const size_t at = spec.find('@');
  const std::string_view point = spec.substr(0, at);
  const size_t colon = point.find(':');
  int count = 1;
  if (colon != std::string_view::npos) {
    std::from_chars(point.data() + colon + 1, point.data() + point.size(), count);
  }
  Point().name = std::string(point.substr(0, colon));
  Point().once_file = at == std::string_view::npos ? "" : std::string(spec.substr(at + 1));
  passages_left = count;
  armed = !spec.empty();
}

void FaultPoint(std::string_view name) {
  if (!armed.load(std::memory_order_acquire) || Point().name != name) return;
  if (passages_left.fetch_sub(1) == 1 && MayDie()) kill(getpid(), SIGKILL);
}

}  // namespace octavo
