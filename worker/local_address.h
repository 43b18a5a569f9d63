#pragma once

// Addresses of this process as other processes see them.

#include <string>

#include "absl/status/statusor.h"

namespace octavo {

// The part of "host:port" (or "[host]:port") before the port, without brackets, and the port.
struct HostPort {
  std::string host;
  std::string port;
};
absl::StatusOr<HostPort> SplitAddress(const std::string& address);

// The local address from which this machine would reach `address`. Nothing is sent.
absl::StatusOr<std::string> LocalHostTowards(const std::string& address);

// What peers should dial: `advertise` if given (its port 0 means the bound one); else the bound
// address, with the local address towards the coordinator where it was bound to all of them.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& advertise,
                                              const std::string& bound,
                                              const std::string& coordinator);

}  // namespace octavo
