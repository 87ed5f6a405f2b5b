[inputs: ["{mix,.formatter}.exs", "{config,lib,versions}/**/*.{ex,exs}"], line_length: 120]
