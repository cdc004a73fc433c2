// Chat templates rendered by llama.cpp's own Jinja engine: JSON on stdin, JSON on stdout.
//
// In:  {"time": seconds since 1970, "templates": {name: text}, "values": {name: {conversation: {variable: value}}}}
// Out: {name: {conversation: {"text": "..."} or {"failed": "..."}}}
// make_jinja_golden.py builds it and says what is given.

#include <cstdlib>
#include <ctime>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>

#include "json.h"

#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"

// What a failed assertion of the JSON library calls; the rest of ggml is not needed.
extern "C" [[noreturn]] void ggml_abort(const char * file, int line, const char *, ...) {
    std::cerr << file << ":" << line << ": assertion failed\n";
    std::abort();
}

static std::string render(const std::string & source, const common_json & values, std::time_t now) {
    jinja::lexer lexer;
    const jinja::program program = jinja::parse_from_tokens(lexer.tokenize(source));
    jinja::context context(source);
    context.current_time = now;
    jinja::global_from_json(context, values, false);
    jinja::runtime runtime(context);
    return jinja::runtime::gather_string_parts(runtime.execute(program))->as_string().str();
}

int main() {
    const std::string given{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    const common_json in = common_json::parse(given);
    common_json out = common_json::parse("{}");
    const std::time_t now = in.at("time").get<long>();
    for (const auto & [name, conversations] : in.at("values").items()) {
        for (const auto & [conversation, values] : conversations.items()) {
            common_json & result = out[name][conversation];
            try {
                result["text"] = render(in.at("templates").at(name).get<std::string>(), values, now);
            } catch (const std::exception & error) {
                result["failed"] = error.what();
            }
        }
    }
    std::cout << out.dump_safe() << "\n";
    return 0;
}
