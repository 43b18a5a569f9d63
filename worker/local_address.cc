#include "worker/local_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<HostPort> SplitAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
    return MakeError(Reason::kUsage, fmt::format("'{}' is not an address", address), {},
                     "write HOST:PORT");
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return HostPort{.host = std::move(host), .port = address.substr(colon + 1)};
}

absl::StatusOr<std::string> LocalHostTowards(const std::string& address) {
  OCTAVO_ASSIGN_OR_RETURN(const HostPort to, SplitAddress(address));
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(to.host.c_str(), to.port.c_str(), &hints, &found); error != 0) {
    return MakeError(Reason::kUnreachable,
                     fmt::format("cannot resolve '{}': {}", to.host, gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, freeaddrinfo);
  const int fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage local = {};
  socklen_t size = sizeof(local);
  char host[NI_MAXHOST] = {};
  // Connecting a datagram socket only looks up the route.
  const bool ok = fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) == 0 &&
                  getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0 &&
                  getnameinfo(reinterpret_cast<sockaddr*>(&local), size, host, sizeof(host),
                              nullptr, 0, NI_NUMERICHOST) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!ok) return ErrnoError("cannot find the local address towards", error, {.file = address});
  return std::string(host);
}

absl::StatusOr<std::string> AdvertisedAddress(const std::string& advertise,
                                              const std::string& bound,
                                              const std::string& coordinator) {
  OCTAVO_ASSIGN_OR_RETURN(const HostPort local, SplitAddress(bound));
  HostPort out = local;
  if (!advertise.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(out, SplitAddress(advertise));
    if (out.port == "0") out.port = local.port;
  } else if (out.host == "0.0.0.0" || out.host == "::") {
    OCTAVO_ASSIGN_OR_RETURN(out.host, LocalHostTowards(coordinator));
  }
  const bool bracket = out.host.find(':') != std::string::npos;
  return bracket ? fmt::format("[{}]:{}", out.host, out.port)
                 : fmt::format("{}:{}", out.host, out.port);
}

}  // namespace octavo
