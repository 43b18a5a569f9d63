#pragma once

// Client side of a connection.

#include <chrono>
#include <memory>
#include <string>

namespace grpc {
class Channel;
class ClientContext;
}  // namespace grpc

namespace octavo {

// A channel to "host:port" that sends `token` (empty: none) with every call, with Octavo's message
// size limit and keep-alive pings (every 10 s, dead after 5 s without an answer). Returns at once;
// connecting happens with the first call, and again after a loss within about a second.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const std::string& token);

// Every unary call gets a deadline.
void SetTimeout(grpc::ClientContext& context, std::chrono::milliseconds timeout);

}  // namespace octavo
