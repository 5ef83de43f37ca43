from .route import Route as Route
