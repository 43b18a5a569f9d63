#include "core/base/fault.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <string>

namespace octavo {
namespace {

std::atomic<bool> armed{false};
std::atomic<int> passages_left{0};
std::string& ArmedName() {
  static std::string name;
  return name;
}

}  // namespace

void ArmFaultPoint(std::string_view spec) {
  const size_t colon = spec.find(':');
  int count = 1;
  if (colon != std::string_view::npos) {
    std::from_chars(spec.data() + colon + 1, spec.data() + spec.size(), count);
  }
  ArmedName() = std::string(spec.substr(0, colon));
  passages_left = count;
  armed = !spec.empty();
}

void FaultPoint(std::string_view name) {
  if (!armed.load(std::memory_order_acquire) || ArmedName() != name) return;
  if (passages_left.fetch_sub(1) == 1) kill(getpid(), SIGKILL);
}

}  // namespace octavo
